"""The compiler process: one module in, one shared object out, and nothing else within reach.

The compiler reads a stranger's bytes for seconds, with a library of a hundred megabytes. So each compile has a
fresh interpreter of its own, started by the supervisor, which forks once. The parent has the privileges and never sees
a byte of the module's: it makes namespaces and a folder, watches over time and end, and hands out what was made. The
child loads the library, gives up everything, and only then reads the module.

Request and answer (``compile_protocol``) are one frame each on standard input, a Unix socket. When its other end goes
away the compile ends.
"""

from __future__ import annotations

import _signal  # the signal and socket modules import enum
import _socket
import ctypes
import os
import resource
import select
import time

from . import linux
from .calls.call_list import NEGATIVE, CallList, Runner
from .compile_protocol import COMPILED, CRASHED, MADE, NO_MEMORY, TIMED_OUT, UNABLE, Request
from .confinement import confinement
from .confinement.landlock import Landlock
from .confinement.seccomp import Filter
from .engines.compiler import load
from .protocol import Frame, Reader, send

NOBODY = 65534  # user and group
_OUTPUT = b"out.so"
_MAX_TEXT = 2000
_NO_MEMORY = b"bad_alloc", b"out of memory", b"MemoryError", b"memory allocation of", b"Resource temporarily"
"""What libraries and Python say last when they lack memory, for a thread's stack as well (pthread_create(3))."""
_WALL_FACTOR, _WALL_SECONDS = 20, 60
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWPID = 0x20000, 0x4000000, 0x8000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve the one request on standard input: the entry point of a fresh interpreter."""
    control = _socket.socket(fileno=0)
    reader = Reader(control)
    frames: list[Frame] = []
    while not frames:
        if not reader.receive():
            return
        frames = list(reader.frames())
    product: list[int] = []
    try:
        verdict, text, product = _supervise(control, Request.decode(frames[0].body), frames[0].fds[0])
    except OSError as error:
        verdict, text = UNABLE, str(error).encode()
    try:
        send(control, COMPILED, verdict + text, product)
    except OSError:  # the supervisor is gone
        pass


# The parent


def _supervise(control: _socket.socket, request: Request, module: int) -> tuple[bytes, bytes, list[int]]:
    """Run the compiler, confined, and say how that ended; with MADE, a descriptor of the product."""
    if request.idle:
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    confinement.drop_bounding_set()
    folder = _wall_off(request.workshop, request.memory // 4)
    report, theirs = os.pipe()
    words, stderr = os.pipe()
    child = os.fork()
    if child == 0:
        control.close()
        os.dup2(stderr, 1)
        os.dup2(stderr, 2)
        for fd in (report, words, stderr):
            os.close(fd)
        _compile(request, module, folder, theirs)
    os.close(theirs)
    os.close(stderr)
    status, kibibytes, said, stopped = _watch(control, child, words, request.milliseconds / 1000)
    if stopped is not None:
        return *stopped, []
    verdict = os.read(report, 4096)
    if os.WIFEXITED(status) and verdict[:1] == MADE:
        # All that ran in its namespaces is gone: it has no writer any more.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return MADE, verdict[1:2] + kibibytes.to_bytes(8, "little"), [os.open(_OUTPUT, flags, dir_fd=folder)]
    if os.WIFEXITED(status) and verdict:
        return verdict[:1], verdict[1:], []
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == _signal.SIGKILL:
        return UNABLE, b"it was killed, as the kernel does when the machine is out of memory", []
    if any(word in said for word in _NO_MEMORY):
        return NO_MEMORY, b"it needs more than %d MiB" % (request.memory >> 20), []
    code = os.waitstatus_to_exitcode(status)
    end = f"signal {-code}" if code < 0 else f"status {code}"
    return CRASHED, b": ".join(filter(None, (end.encode(), said.strip()[:200]))), []


def _wall_off(workshop: bytes, size: int) -> int:
    """Leave the network and every mount of the machine's; a new empty folder of bounded size, to live in."""
    spaces = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID | linux.CLONE_NEWNET
    _check(_libc.unshare(spaces), "unshare")
    _mount(b"", b"/", b"", _MS_REC | _MS_PRIVATE, b"")
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount(b"compiler", workshop, b"tmpfs", flags, b"mode=700,uid=%d,gid=%d,size=%d" % (NOBODY, NOBODY, size))
    return os.open(workshop, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _watch(
    control: _socket.socket, child: int, words: int, seconds: float
) -> tuple[int, int, bytes, tuple[bytes, bytes] | None]:
    """Wait for the child's end, or bring it about: its status, its most memory in KiB, its last words, and why.

    Processor time counts, so that a busy machine makes nobody fail; the clock only bounds what sleeps.
    """
    said = b""
    stopped: tuple[bytes, bytes] | None = None
    clock = ~child << 3 | 2  # its processor time: MAKE_PROCESS_CPUCLOCK in the kernel's posix-timers.h
    wall = time.monotonic() + _WALL_FACTOR * seconds + _WALL_SECONDS
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    for fd in (control.fileno(), pidfd, words):
        poll.register(fd, select.POLLIN)
    while True:
        used = time.clock_gettime(clock)
        if stopped is None:
            if used > seconds:
                stopped = TIMED_OUT, b"it takes more than %.4g s of processor time" % seconds
            elif time.monotonic() > wall:
                stopped = UNABLE, b"it got %.3g s of processor time and did not end" % used
        if stopped is not None:
            os.kill(child, _signal.SIGKILL)
        left = seconds - used if stopped is None else 1
        ready = {fd for fd, _ in poll.poll(1000 * max(0.01, min(left / 2, 1)))}
        if control.fileno() in ready:  # there is no second message: the sender of the first is gone
            poll.unregister(control)
            stopped = UNABLE, b"nobody wants it any more"
        if words in ready:
            text = os.read(words, 4096)
            said = (said + text)[-_MAX_TEXT:]
            if not text:
                poll.unregister(words)
        elif pidfd in ready:
            _, status, usage = os.wait4(child, 0)
            return status, usage.ru_maxrss, said, stopped


def _mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes) -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data), "mount")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# The child


def _compile(request: Request, module: int, folder: int, report: int) -> None:
    """Become the user nobody, alone in an empty folder; then compile. Never returns."""
    try:
        compiler = load(request.engine, request.library, request.version)  # while there are files to load it from
        if compiler.version != request.version:
            text = b"%s is %s now: restart the sandboxer, which runs %s"
            os.write(report, UNABLE + text % (request.engine, compiler.version, request.version))
            os._exit(0)
        _confine(request, folder)
        os.write(report, compiler.compile(_read(module), request.level, b"/" + _OUTPUT))
        os._exit(0)
    except BaseException as error:
        os.write(2, repr(error).encode(errors="replace")[:_MAX_TEXT])
        os._exit(1)


def _confine(request: Request, folder: int) -> None:
    """From here on there is one folder, and no privilege, network, other program or other process."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # before any guest
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    landlock, filter_, runner = Landlock(), Filter(request.filter), Runner()
    # The new folder over the old root, which is then unmounted with all that is mounted in it (pivot_root(2), Notes):
    # no unmount waits for a compiler.
    os.fchdir(folder)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, request.memory // 4),
        (resource.RLIMIT_CPU, request.milliseconds // 1000 + 10),  # the parent's limit comes first
        (resource.RLIMIT_AS, mapped + request.memory),
    ):
        resource.setrlimit(kind, (limit, limit))
    calls = CallList()
    confinement.drop_privileges(calls, NOBODY, NOBODY, [])
    # A change of user undoes it, so it comes after.
    calls.libc("prctl", _PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0, fails=NEGATIVE)
    landlock.restrict(calls, [(folder, False)], [], False)
    filter_.install(calls, calls.table([os.getpid()]))
    runner.perform(calls)


def _read(fd: int) -> bytes:
    parts = []
    at = 0
    while part := os.pread(fd, 1 << 20, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
