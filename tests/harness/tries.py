"""Tries of a guest that has broken out of WebAssembly (``broken_out``), by their names."""

from __future__ import annotations

import _thread
import ctypes
import fcntl
import mmap
import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from workers.calls.call_list import CallList
from workers.confinement import epitaph, seccomp

ROOT = Path(__file__).resolve().parent.parent.parent

_libc = ctypes.CDLL(None, use_errno=True)

EPITAPHS: list[int] = []
"""Addresses of the lists that name forbidden calls."""
_map_readonly = epitaph._map_readonly


def _noted(calls: CallList) -> int:
    EPITAPHS.append(_map_readonly(calls))
    return EPITAPHS[-1]


vars(epitaph)["_map_readonly"] = _noted

TRIES: dict[str, Callable[..., object]] = {}
"""By name: each is given the preopens' descriptors and its arguments."""


def _try(function: Callable[..., object]) -> Callable[..., object]:
    TRIES[function.__name__.strip("_")] = function
    return function


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


@_try
def _call(_: list[int], number: str, *arguments: str) -> object:
    """Any system call by number. ``@text`` is a pointer to 4 KiB with the text and zeros; the rest are numbers."""
    buffers = [ctypes.create_string_buffer(each[1:].encode(), 4096) for each in arguments]
    pairs = zip(arguments, buffers, strict=True)
    values = [ctypes.addressof(buffer) if each.startswith("@") else int(each) for each, buffer in pairs]
    return _checked(_libc.syscall(ctypes.c_long(int(number)), *(ctypes.c_long(value) for value in values)))


@_try
def _open(folders: list[int], folder: str, path: str, flags: str) -> object:
    """Open a path, in a preopen or ("-") wherever it leads; read a byte where that is asked for."""
    fd = os.open(path, int(flags), 0o600, dir_fd=None if folder == "-" else folders[int(folder)])
    return None if int(flags) & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY) else len(os.read(fd, 1))


@_try
def _stat(folders: list[int], folder: str, path: str) -> object:
    """The size of what is at a path, in a preopen or ("-") wherever it leads."""
    return os.stat(path, dir_fd=None if folder == "-" else folders[int(folder)]).st_size


@_try
def _readlink(folders: list[int], folder: str, path: str) -> object:
    base, buffer = -100 if folder == "-" else folders[int(folder)], ctypes.create_string_buffer(4096)  # AT_FDCWD
    return _checked(_libc.readlinkat(base, path.encode(), buffer, 4096))


@_try
def _set_times(folders: list[int], folder: str, path: str) -> object:
    os.utime(path, (1, 1), dir_fd=None if folder == "-" else folders[int(folder)])
    return None


@_try
def _access(folders: list[int], folder: str, path: str) -> object:
    """faccessat2(2), at the real user's rights."""
    base = -100 if folder == "-" else folders[int(folder)]  # AT_FDCWD
    return _checked(_libc.faccessat(base, path.encode(), os.F_OK, 0))


@_try
def _spoil_log(_: list[int], how: str) -> object:
    """Undo what was written to standard output."""
    if how == "truncate":
        os.ftruncate(1, 0)
    elif how == "punch":
        _checked(_libc.fallocate(1, 3, ctypes.c_long(0), ctypes.c_long(4)))  # FALLOC_FL_PUNCH_HOLE | KEEP_SIZE
    elif how == "date":
        os.utime(1, (1, 1))
    elif how == "overwrite":
        fcntl.fcntl(1, fcntl.F_SETFL, 0)
        os.pwrite(1, b"over", 0)
    elif how == "duplicate":
        os.ftruncate(os.dup(1), 0)
    elif how == "duplicate onto":
        os.dup2(1, 9, inheritable=False)
        os.ftruncate(9, 0)
    elif how == "duplicate by fcntl":
        os.ftruncate(fcntl.fcntl(1, fcntl.F_DUPFD, 9), 0)
    elif how == "place":
        os.pwrite(1, b"over", 0)  # O_APPEND wins (pwrite(2), BUGS)
    return None


@_try
def _rename(folders: list[int], source: str, old: str, target: str, new: str) -> object:
    os.rename(old, new, src_dir_fd=folders[int(source)], dst_dir_fd=folders[int(target)])
    return None


@_try
def _link(folders: list[int], source: str, old: str, target: str, new: str) -> object:
    os.link(old, new, src_dir_fd=folders[int(source)], dst_dir_fd=folders[int(target)], follow_symlinks=False)
    return None


@_try
def _truncate(folders: list[int], folder: str, path: str) -> object:
    fd = os.open(path, os.O_RDWR, dir_fd=folders[int(folder)])
    os.ftruncate(fd, 3)
    return os.fstat(fd).st_size


@_try
def _own_fds(_: list[int]) -> object:
    """How many descriptors it was left with."""
    found = []
    for fd in range(1024):
        try:
            os.fstat(fd)
            found.append(fd)
        except OSError:
            pass
    return len(found)


@_try
def _wait(_: list[int]) -> object:
    """Until stdin ends."""
    os.read(0, 1)
    return None


@_try
def _connect(_: list[int], family: str, kind: str, where: str) -> object:
    """``where`` is a port of the loopback, or the name of a Unix socket with a leading ``@`` for a zero byte."""
    sock = socket.socket(int(family), int(kind))
    if where.startswith(("@", "/")):
        sock.connect(where.replace("@", "\0"))
    elif where:
        sock.connect(("127.0.0.1", int(where)))
    return None


@_try
def _bind(_: list[int], family: str, kind: str) -> object:
    sock = socket.socket(int(family), int(kind))
    sock.bind(("127.0.0.1", 0))
    return None


@_try
def _exec(_: list[int], path: str) -> object:
    os.execv(path, [path])


@_try
def _fork(_: list[int]) -> object:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return None


@_try
def _in_thread(folders: list[int], name: str, *arguments: str) -> object:
    """Another try, in a thread."""
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(TRIES[name](folders, *arguments)))
    thread.start()
    thread.join()
    return answers[0]


@_try
def _eat_threads(_: list[int], limit: str) -> object:
    """Start threads that wait, until there can be no more; how many there were."""
    for number in range(int(limit)):
        try:
            _thread.start_new_thread(_held().acquire, ())
        except RuntimeError:  # EAGAIN of pthread_create(3)
            return number
    return limit


def _held() -> _thread.LockType:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


@_try
def _signal(_: list[int], pid: str, number: str) -> object:
    os.kill(int(pid), int(number))
    return None


@_try
def _read_memory(_: list[int], pid: str) -> object:
    """process_vm_readv(2), of an address where every worker of a forkserver has the same."""
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 8)
    return _checked(_libc.process_vm_readv(int(pid), ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0))


@_try
def _set_handler(_: list[int], number: str, handler: str) -> object:
    """rt_sigaction: ``handler`` 0 is the default, 1 is to ignore."""
    action = (ctypes.c_ulong * 20)(int(handler))
    return _checked(_libc.sigaction(int(number), ctypes.byref(action), None))


@_try
def _blocked(_: list[int], number: str) -> object:
    """Block SIGSYS, then make a forbidden call."""
    everything = (ctypes.c_ulong * 16)(*[2**64 - 1] * 16)
    _checked(_libc.sigprocmask(0, ctypes.byref(everything), None))
    return _call([], number)


@_try
def _neutered(_: list[int], number: str) -> object:
    """Overwrite the handler in memory, so that it returns and neither names the call nor ends, then make it."""
    vars(seccomp)["posix"] = None
    seccomp.Reporter._report = lambda *_: None  # type: ignore[method-assign]
    for begin in EPITAPHS:
        page = begin & -mmap.PAGESIZE
        _checked(_libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 3))
        ctypes.memset(begin + 24, 0xFF, 8)  # the first step fails, whatever its result
    return _call([], number)


@_try
def _stderr_full(_: list[int], number: str) -> object:
    """Fill the pipe at stderr, then make a forbidden call."""
    fcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK)
    try:
        while True:
            os.write(2, bytes(4096))
    except BlockingIOError:
        fcntl.fcntl(2, fcntl.F_SETFL, 0)
    return _call([], number)


@_try
def _stderr_closed(_: list[int], number: str) -> object:
    os.close(2)
    return _call([], number)


@_try
def _make_code(_: list[int]) -> object:
    """Memory that is written and then run."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return None


@_try
def _turn_into_code(_: list[int]) -> object:
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return _checked(_libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), mmap.PROT_EXEC))


@_try
def _map_code(folders: list[int], path: str) -> object:
    """Machine code in a file of the guest's own."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600, dir_fd=folders[0])
    os.write(fd, bytes(4096))
    mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    return None


@_try
def _eat_memory(_: list[int], limit: str) -> object:
    held = []
    for _number in range(int(limit)):
        held.append(mmap.mmap(-1, 1 << 20))
        held[-1][0] = 1
    return None


@_try
def _eat_descriptors(_: list[int], limit: str) -> object:
    for _number in range(int(limit)):
        os.dup(0)
    return None


@_try
def _eat_disk(folders: list[int], limit: str) -> object:
    fd = os.open("flood", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=folders[0])
    for _number in range(int(limit)):
        os.write(fd, bytes(1 << 20))
    return None


@_try
def _grow_limit(_: list[int], kind: str) -> object:
    resource.setrlimit(int(kind), (1 << 30, 1 << 30))
    return None
