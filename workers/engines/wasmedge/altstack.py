"""A stack of their own for WasmEdge's fault handlers.

Compiled code turns faults into traps: WasmEdge handles SIGSEGV and jumps out. But it sets its handlers up without
SA_ONSTACK (sigaction(2)), so where the fault is that the stack has run out, as in endless recursion, there is no
room for the handler and the kernel ends the process by SIGSEGV, 139, where the interpreter says 134. So the one
entry through which libwasmedge calls sigaction is led here, and the flag is added. All of it is inherited by forks.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_size_t, c_void_p

from ...calls import machine
from ...calls.call_list import address
from . import imports

BYTES = 64 << 10  # a frame with all of AVX-512 and AMX takes 11 KiB

_libc = ctypes.PyDLL(None, use_errno=True)


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
        imports.redirect(library, b"sigaction", hook)
