"""seccomp (seccomp(2)): the system calls that are left to a worker, and the end of one that makes another.

The filters arrive as finished programs: they are built in the supervisor (``supervisor/seccomp.py``).

A forbidden call is never carried out. It traps, and the handler below, which the forkserver sets up once for
all its forks, names the call and ends the process by SIGSYS. A plain kill would leave nobody to name it. The
kernel sees to the rest: SIGSYS is blocked in its handler and back at its default from the first trap on
(SA_RESETHAND), and the filter lets nobody set it again. So the handler's own last call, which is forbidden too,
is deadly; and a guest that has rewritten the handler in its memory gets away with one call refused, and dies
of the next.
"""

from __future__ import annotations

import ctypes
import posix
import select
from ctypes import byref, c_int, c_uint, c_ushort, c_void_p

from . import linux

OWN_PID = 0x5AFE0B1D
"""Stands in a filter where the worker puts its own pid; above every pid there is (proc_sys_kernel(5))."""

_SET_MODE_FILTER = 1
_NUMBERS = {"x86_64": 317, "aarch64": 277}  # of seccomp itself
_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_SIGSYS = 31
_SYS_SECCOMP = 1  # si_code (sigaction(2))
_INSTRUCTION_BYTES = 8
_EPITAPH = b"SIGSYS "
_MACHINE = posix.uname().machine


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", c_ushort), ("filter", c_void_p))


class _Trap(ctypes.Structure):
    """The part of ``siginfo_t`` that a SIGSYS has (sigaction(2)), on 64-bit machines."""

    _fields_ = (
        ("signal", c_int),
        ("errno", c_int),
        ("code", c_int),
        ("_", c_int),
        ("address", c_void_p),
        ("call", c_int),
        ("arch", c_uint),
    )


class Filter:
    """A filter program as the kernel takes it, made before the fork. Empty, it stands for no filter."""

    __slots__ = ("_bytes", "_pid", "_pointer", "_program")

    def __init__(self, program: bytes) -> None:
        if len(program) % _INSTRUCTION_BYTES:
            raise ValueError(f"{len(program)} bytes are no seccomp filter")
        self._bytes = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(self._bytes))
        self._pointer = byref(self._program)
        at = program.find(OWN_PID.to_bytes(4, "little"))
        self._pid = c_int.from_buffer(self._bytes, at) if at >= 0 else c_int()

    def install(self) -> None:
        """Confine this process for good. Needs no_new_privs. Raises ``OSError``."""
        if self._program.length:
            self._pid.value = posix.getpid()
            _seccomp(_SET_MODE_FILTER, 0, self._pointer)


_seccomp = linux.system_call(_NUMBERS.get(_MACHINE, -1), c_uint, c_uint, c_void_p)


class Reporter:
    """Names the forbidden call on the guest's stderr, and to the forkserver, before the process ends by it."""

    __slots__ = ("_arch", "_callback", "_names")

    def __init__(self, names: bytes) -> None:
        """``names`` are the names of all system calls by number, a line each."""
        self._names = names
        self._arch = _ARCHES.get(_MACHINE, 0)
        self._callback = ctypes.CFUNCTYPE(None, c_int, c_void_p, c_void_p)(self._report)
        linux.sigaction(_SIGSYS, self._callback, linux.SA_SIGINFO | linux.SA_RESETHAND)

    def _report(self, _signal: int, info: int, _context: int) -> None:
        try:
            trap = _Trap.from_address(info)
            if trap.code == _SYS_SECCOMP:  # and not from somebody's kill(2)
                name = self._name(trap.call) if trap.arch == self._arch else b"of a foreign architecture"
                # Not where it would block: a full pipe must not keep the process alive.
                poll = select.poll()
                poll.register(2, select.POLLOUT)
                if poll.poll(0):
                    posix.write(2, b"wasm-sandboxer: forbidden system call %s (%d)\n" % (name, trap.call))
                linux.prctl(linux.PR_SET_NAME, b"%s%d" % (_EPITAPH, trap.call))
        finally:
            posix.kill(posix.getpid(), _SIGSYS)

    def _name(self, call: int) -> bytes:
        names = self._names.split(b"\n")
        return names[call] if 0 <= call < len(names) and names[call] else b"unknown"


def last_call(pid: int) -> int:
    """The forbidden call of which a child, not yet waited for, has died; -1 where it does not say.

    It is the guest's word: a guest that has broken out can set any number.
    """
    try:
        fd = posix.open(f"/proc/{pid}/comm", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return -1
    try:
        name = posix.read(fd, 16).strip()
    finally:
        posix.close(fd)
    number = name.removeprefix(_EPITAPH)
    return int(number) if number != name and number.isdigit() else -1
