"""A stack of their own for WasmEdge's fault handlers.

Compiled code turns faults into traps: WasmEdge handles SIGSEGV and jumps out. But it sets its handlers up without
SA_ONSTACK (sigaction(2)), so where the fault is that the stack has run out, as in endless recursion, there is no
room for the handler and the kernel ends the process by SIGSEGV, 139, where the interpreter says 134. So the one
entry through which libwasmedge calls sigaction is led here, and the flag is added. All of it is inherited by forks.
"""

from __future__ import annotations

import ctypes
import posix
import struct
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_void_p

from ... import linux
from ...calls import machine
from ...calls.call_list import address

BYTES = 64 << 10  # a frame with all of AVX-512 and AMX takes 11 KiB

_RTLD_DI_LINKMAP = 2  # dlinfo(3)
_DT_STRTAB, _DT_SYMTAB, _DT_JMPREL, _DT_PLTRELSZ = 5, 6, 23, 2  # elf(5)
_RELA, _SYMBOL_BYTES = struct.Struct("<QQq"), 24

_libc = ctypes.PyDLL(None, use_errno=True)


class _LinkMap(ctypes.Structure):
    """The start of ``struct link_map`` (link.h)."""

    _fields_ = (("addr", c_size_t), ("name", c_char_p), ("ld", c_size_t))


class _Stack(ctypes.Structure):
    """``stack_t`` (sigaltstack(2))."""

    _fields_ = (("sp", c_void_p), ("flags", c_int), ("size", c_size_t))


class FaultStack:
    """Keep it as long as the library runs. Where the library is built otherwise, it does nothing."""

    __slots__ = ("_memory",)

    def __init__(self, library: ctypes.PyDLL) -> None:
        self._memory = ctypes.create_string_buffer(BYTES)
        _libc.sigaltstack(ctypes.byref(_Stack(ctypes.addressof(self._memory), 0, BYTES)), None)
        code = machine.hook_code(address(_libc.sigaction))
        if not code:
            return
        try:
            hook = machine.load(code)
        except OSError:  # a policy that lets no process make code of its own
            return
        size = posix.sysconf("SC_PAGE_SIZE")
        for slot in _slots(library, b"sigaction"):
            page = c_void_p(slot & -size)
            if _libc.mprotect(page, size, linux.PROT_READ | linux.PROT_WRITE) == 0:
                c_size_t.from_address(slot).value = hook
                _libc.mprotect(page, size, linux.PROT_READ)


def _slots(library: ctypes.PyDLL, name: bytes) -> Iterator[int]:
    """The addresses at which the library keeps where a function that it imports is."""
    map_ = ctypes.POINTER(_LinkMap)()
    if _libc.dlinfo(c_void_p(library._handle), _RTLD_DI_LINKMAP, ctypes.byref(map_)):
        return
    dynamic: dict[int, int] = {}
    at, tag = map_[0].ld, 1
    while tag:
        tag, value = struct.unpack("<qQ", ctypes.string_at(at, 16))
        dynamic[tag] = value
        at += 16
    relocations = ctypes.string_at(dynamic.get(_DT_JMPREL, 0), dynamic.get(_DT_PLTRELSZ, 0))
    for offset, info, _ in _RELA.iter_unpack(relocations):
        (text,) = struct.unpack("<I", ctypes.string_at(dynamic[_DT_SYMTAB] + _SYMBOL_BYTES * (info >> 32), 4))
        if ctypes.string_at(dynamic[_DT_STRTAB] + text) == name:
            yield map_[0].addr + offset
