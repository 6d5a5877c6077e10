"""seccomp (seccomp(2)): installs a worker's filters, and names the forbidden call that ends one.

The supervisor builds the filters (``supervisor/seccomp/``); they arrive as finished programs.

A forbidden call is never carried out. It traps, and the handler below, which the forkserver sets up once for
all its forks, names the call and ends the process by SIGSYS; a plain kill would leave nobody to name it. From the
first trap on SIGSYS is blocked and back at its default (SA_RESETHAND), and no allowed call sets it, blocks it or
returns from its handler. So a second trap kills, whatever the handler was made into: a guest that rewrote it in its
memory and jumps out of it has one call refused, and dies of the next.
"""

from __future__ import annotations

import _signal  # the signal module imports enum
import ctypes
import posix
import select
import sys
from _ctypes import Py_INCREF
from ctypes import c_int, c_uint, c_void_p

from .. import linux
from ..calls.call_list import NEGATIVE
from ..protocol import OWN_PID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..calls.call_list import CallList, Data

_SET_MODE_FILTER = 1
SIGSYS = 31
SYS_SECCOMP = 1  # si_code (sigaction(2))
_INSTRUCTION_BYTES = 8
EPITAPH = b"SIGSYS "
# The number of seccomp(2), and the machine's (linux/audit.h).
_SECCOMP, ARCH = {"x86_64": (317, 0xC000003E), "aarch64": (277, 0xC00000B7)}.get(posix.uname().machine, (-1, 0))


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
    """A filter program as the kernel takes it. Empty, it stands for no filter."""

    __slots__ = ("_code", "_pid")

    def __init__(self, code: bytes) -> None:
        if len(code) % _INSTRUCTION_BYTES:
            raise ValueError(f"{len(code)} bytes are no seccomp filter")
        self._code = code
        self._pid = code.find(OWN_PID.to_bytes(4, sys.byteorder))  # -1 where it is not there

    def install(self, calls: CallList, pid: Data, stage: int = 0) -> None:
        """Install it for good in the process whose ``pid`` lies there. Needs no_new_privs."""
        if not self._code:
            return
        code = calls.data(self._code)
        if self._pid >= 0:
            calls.libc("memcpy", code + self._pid, pid, 4)
        program = calls.table([len(self._code) // _INSTRUCTION_BYTES, code])  # struct sock_fprog
        calls.libc("syscall", _SECCOMP, _SET_MODE_FILTER, 0, program, fails=NEGATIVE, stage=stage)


class Reporter:
    """Names the forbidden call on the guest's stderr, and to the forkserver, before the process ends by it."""

    __slots__ = ("_callback", "names")

    def __init__(self) -> None:
        self.names = b""
        """The names of all system calls by number, a line each."""
        self._callback = ctypes.CFUNCTYPE(None, c_int, c_void_p, c_void_p)(self._report)
        Py_INCREF(self._callback)  # to give it back, libffi would write to it, and that is forbidden (``code_pages``)
        linux.sigaction(SIGSYS, self._callback, linux.SA_SIGINFO | linux.SA_RESETHAND)

    def _report(self, _number: int, info: int, _context: int) -> None:
        try:
            trap = _Trap.from_address(info)
            if trap.code == SYS_SECCOMP:  # and no kill(2)
                name = self._name(trap.call) if trap.arch == ARCH else b"of a foreign architecture"
                # Not where it would block: a full pipe must not keep the process alive.
                poll = select.poll()
                poll.register(2, select.POLLOUT)
                if poll.poll(0):
                    posix.write(2, b"wasm-sandboxer: forbidden system call %s (%d)\n" % (name, trap.call))
                linux.prctl(linux.PR_SET_NAME, b"%s%d" % (EPITAPH, trap.call))
        except Exception:  # there is no one to tell
            pass
        finally:
            _signal.raise_signal(SIGSYS)  # pending until this returns, which is forbidden, too (rt_sigreturn)

    def _name(self, call: int) -> bytes:
        names = self.names.split(b"\n")
        return names[call] if 0 <= call < len(names) and names[call] else b"unknown"


def forbidden_call(pid: int) -> int:
    """The number of the forbidden call that ended a child, not yet waited for; -1 where it does not say.

    A guest that has broken out can set any number.
    """
    try:
        fd = posix.open(f"/proc/{pid}/comm", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return -1
    try:
        name = posix.read(fd, 16).strip()
    finally:
        posix.close(fd)
    number = name.removeprefix(EPITAPH)
    return int(number) if number != name and number.isdigit() else -1
