"""Redirects a function that libwasmedge imports: changes the address in its table of imports (elf(5), JUMP_SLOT)."""

from __future__ import annotations

import ctypes
import posix
import struct
from collections.abc import Iterator
from ctypes import c_char_p, c_size_t, c_void_p

from ... import linux

_RTLD_DI_LINKMAP = 2  # dlinfo(3)
_DT_STRTAB, _DT_SYMTAB, _DT_JMPREL, _DT_PLTRELSZ = 5, 6, 23, 2  # elf(5)
_RELA, _SYMBOL_BYTES = struct.Struct("<QQq"), 24

_libc = ctypes.PyDLL(None, use_errno=True)


class _LinkMap(ctypes.Structure):
    """The start of ``struct link_map`` (link.h)."""

    _fields_ = (("addr", c_size_t), ("name", c_char_p), ("ld", c_size_t))


def imported(library: ctypes.PyDLL, name: bytes) -> int:
    """The address by which the library calls a function that it imports; 0 where it imports none of that name."""
    for slot in _slots(library, name):
        return c_size_t.from_address(slot).value
    return 0


def redirect(library: ctypes.PyDLL, name: bytes, function: int) -> bool:
    """Have the library call the function at this address instead; whether it imports one of that name."""
    size = posix.sysconf("SC_PAGE_SIZE")
    done = False
    for slot in _slots(library, name):
        page = c_void_p(slot & -size)
        if _libc.mprotect(page, size, linux.PROT_READ | linux.PROT_WRITE) == 0:
            c_size_t.from_address(slot).value = function
            _libc.mprotect(page, size, linux.PROT_READ)
            done = True
    return done


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
