"""Kernel calls that Python's standard library does not have, through the C library that is loaded anyway."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

PR_CAPBSET_DROP = 24  # prctl(2)
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38
TIOCSCTTY = 0x540E  # ioctl_tty(2)
CLONE_NEWNET = 0x40000000  # setns(2)
SFD_CLOEXEC = 0o2000000  # signalfd(2)
SFD_NONBLOCK = 0o4000
SIG_BLOCK, SIG_UNBLOCK = 0, 1  # sigprocmask(2)
SA_SIGINFO, SA_RESETHAND = 0x4, 0x80000000  # sigaction(2)
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4  # mmap(2)
O_PATH = 0o10000000  # open(2)
SEEK_END = 2  # lseek(2)
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 2, 0x10, 0x20, 0x4000
MADV_DONTNEED, MADV_DONTFORK = 4, 10  # madvise(2)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LAST_FD = 0xFFFFFFFF  # close_range(2)
WALL = 0x40000000  # waitid(2): children whose end is told by another signal than SIGCHLD, too

_CLONE3 = 435  # system call number, the same on every architecture
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x00200000, 0x01000000  # clone(2)
_PR_GET_TID_ADDRESS = 40
_SIGCHLD = 17
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}  # system call numbers
_LIBRARY_SIGNALS = (32, 33)
_QUEUED = 34  # the C library's SIGRTMIN (signal(7)): as many as are pending stay many

# PyDLL: these return at once, and the callers have one thread.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_MAP_FAILED = ctypes.c_void_p(-1).value


class SignalSet(ctypes.Structure):
    """``sigset_t`` of the C library: 1,024 bits, all empty at first."""

    _fields_ = (("bits", ctypes.c_ulong * (1024 // (8 * ctypes.sizeof(ctypes.c_ulong)))),)


class _SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", SignalSet),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def system_call(*arguments: int | bytes | None) -> int:
    """syscall(2) with integers of 32 bits, bytes (as pointers) and None. Raises ``OSError``.

    Plain arguments, and no declared types: a fork copies every page on which it so much as looks at an object,
    and ctypes looks at many.
    """
    result: int = _syscall(*arguments)
    return result if result >= 0 else _check(result, "system call")


def thread_id_address() -> int:
    """Where the C library keeps this thread's id, for the kernel to clear (set_tid_address(2)); 0 where it has none."""
    place = ctypes.c_void_p()
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(place), 0, 0, 0) != 0:
        return 0
    return place.value or 0


def _clone_arguments() -> bytes:
    """``struct clone_args`` of a fork whose end is told by ``_QUEUED``; empty where clone3(2) is not to be had.

    As the C library's own fork does, it has the kernel put the child's thread id where that library keeps it.
    """
    place = thread_id_address()
    if not place:
        return b""
    if _syscall(_CLONE3, None, 0) != -1 or ctypes.get_errno() != errno.EINVAL:  # ENOSYS: an old kernel, or a container
        return b""
    return struct.pack("8Q", _CLONE_CHILD_CLEARTID | _CLONE_CHILD_SETTID, 0, place, 0, _QUEUED, 0, 0, 0)


_CLONE = _clone_arguments()

EXIT_SIGNAL = _QUEUED if _CLONE else _SIGCHLD
"""The signal by which the end of a ``fork`` is reported, and of its own forks with CLONE_PARENT (clone(2))."""


def fork() -> int:
    """fork(2) without the interpreter's after-fork hooks, of which a single thread needs none."""
    return _check(_syscall(_CLONE3, _CLONE, len(_CLONE)) if _CLONE else _libc.fork(), "fork")


def map_memory(length: int, protection: int = PROT_READ | PROT_WRITE, file: int = -1, near: int | None = None) -> int:
    """mmap(2), private, of a file or of nothing: the address, which is ``near`` where that is free. Raises ``OSError``.

    What lies close together shares page tables, of which there is one for each 2 MiB.
    """
    flags = MAP_PRIVATE | (MAP_ANONYMOUS if file < 0 else 0)
    address: int = _mmap(near, length, protection, flags, file, 0)
    return _check(-1 if address == _MAP_FAILED else address, "mmap")


def behind_libraries() -> int | None:
    """Where the highest mapping below the stack ends; None where that cannot be told."""
    end = None
    try:
        with open("/proc/self/maps", "rb") as file:
            for line in file:
                if b"[stack" in line:
                    return end
                end = int(line[line.index(b"-") + 1 : line.index(b" ")], 16)
    except OSError:
        pass
    return None


def protect_memory(begin: int, length: int, protection: int) -> None:
    """mprotect(2). Raises ``OSError``."""
    _check(_libc.mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(length), protection), "mprotect")


def prctl(option: int, argument: int | bytes, extra: int = 0) -> int:
    """prctl(2)."""
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    return _check(_libc.prctl(option, value, ctypes.c_ulong(extra), 0, 0), f"prctl {option}")


def close_range(first: int, last: int) -> None:
    """close_range(2), both ends included."""
    _check(_libc.close_range(ctypes.c_uint(first), ctypes.c_uint(last), 0), "close_range")


def signals(*numbers: int) -> SignalSet:
    """A set of these signals."""
    chosen = SignalSet()
    for number in numbers:
        _libc.sigaddset(ctypes.byref(chosen), number)
    return chosen


def default_library_signals() -> None:
    """Put the C library's own signals (nptl(7)) at their default. Best effort.

    It lets nobody change them, but its posix_spawn(3) has a child ignore them, make's recipes for example.
    """
    number = _RT_SIGACTION.get(os.uname().machine)
    if number is not None:
        for signal in _LIBRARY_SIGNALS:
            _syscall(number, signal, bytes(32), None, 8)  # sizes of the kernel's sigaction and sigset_t


def sigprocmask(how: int, chosen: SignalSet) -> None:
    """sigprocmask(2)."""
    _check(_libc.sigprocmask(how, ctypes.byref(chosen), None), "sigprocmask")


def signalfd(chosen: SignalSet) -> int:
    """A new descriptor that becomes readable when one of these blocked signals is pending (signalfd(2))."""
    return _check(_libc.signalfd(-1, ctypes.byref(chosen), SFD_CLOEXEC | SFD_NONBLOCK), "signalfd")


def sigaction(number: int, handler: object, flags: int) -> None:
    """Let ``handler``, a C function that the caller keeps alive or its address, handle a signal (sigaction(2)).

    Raises ``OSError``.
    """
    where = handler if isinstance(handler, int) else ctypes.cast(handler, ctypes.c_void_p)  # type: ignore[arg-type]
    action = _SigAction(handler=where, flags=ctypes.c_int(flags).value)
    _check(_libc.sigaction(number, ctypes.byref(action), None), f"sigaction {number}")


def ended_child(kind: int, pid: int) -> os.waitid_result | None:
    """A child that has ended, left as it is; None where there is none."""
    try:
        return os.waitid(kind, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL)
    except ChildProcessError:
        return None
