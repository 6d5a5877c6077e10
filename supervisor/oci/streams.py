"""A process's standard streams: opened here, handed to the worker, and closed again.

What clients expect of FIFOs at their ends is told in docs/architecture.md, "Streams".
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sandbox_api.errors import InvalidArgument
from sandbox_api.interface import Stdio
from workers import relay_protocol

from ..host import errors, linux

T = TypeVar("T")

_FLAGS = os.O_CLOEXEC | os.O_NOCTTY
_DEV_NULL = os.makedev(1, 3)
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Pump:
    """Two descriptors for the relay, and which kind of pump it is (``workers.relay_protocol``)."""

    kind: int
    source: int
    sink: int


@dataclass(slots=True)
class Streams:
    """Open descriptors for a worker's 0, 1 and 2, and what the relay is to pump."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    pumps: list[Pump] = field(default_factory=list)
    log: list[int] = field(default_factory=list)
    """Descriptors of a log's FIFOs that no stream takes: a terminal has one output."""

    @property
    def logged(self) -> bool:
        """Whether standard output or error is a file."""
        return any(stat.S_ISREG(os.fstat(fd).st_mode) for fd in (self.stdout, self.stderr) if fd >= 0)

    def close(self) -> None:
        """Close all that is still open."""
        for name in ("stdin", "stdout", "stderr"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)
        for pump in self.pumps:
            os.close(pump.source)
            os.close(pump.sink)
        self.pumps.clear()
        for fd in self.log:
            os.close(fd)
        self.log.clear()


def open_streams(stdio: Stdio, hold_stdin: bool = False, log: tuple[int, int] | None = None) -> Streams:
    """Open a process's streams. Raises ``InvalidArgument``, and leaves nothing open then.

    With ``hold_stdin`` a FIFO for standard input does not end with its writers, but with CloseIO alone. ``log`` has
    descriptors for stdout and stderr, in place of /dev/null; they are the streams' from now on.
    """
    streams = Streams(log=list(log or ()))
    try:
        if stdio.terminal:
            _open_terminal(stdio, streams, hold_stdin)
        else:
            _open_input(stdio.stdin, streams, hold_stdin)
            streams.stdout = streams.log.pop(0) if log else _open_output("stdout", stdio.stdout)
            streams.stderr = streams.log.pop(0) if log else _open_output("stderr", stdio.stderr)
    except BaseException:
        streams.close()
        raise
    return streams


def check(stdio: Stdio) -> None:
    """Refuse what is no place for a stream. Whether it is there shows at the start: a client may make it until then.

    Raises ``InvalidArgument``.
    """
    for name in ("stdin", "stdout", "stderr"):
        where = getattr(stdio, name)
        if where:
            _path(name, where)


def _open_terminal(stdio: Stdio, streams: Streams, hold_stdin: bool) -> None:
    """One pseudo-terminal for all three streams; the relay stands between it and the client's FIFOs."""
    master, streams.stdin = os.openpty()
    try:
        streams.stdout = os.dup(streams.stdin)
        streams.stderr = os.dup(streams.stdin)
        if stdio.stdin:
            source = _open_reader(stdio.stdin, hold_stdin)
            streams.pumps.append(Pump(relay_protocol.TERMINAL_INPUT, source, _beside(source, lambda: os.dup(master))))
        sink = streams.log.pop(0) if streams.log else _open_output("stdout", stdio.stdout)
        streams.pumps.append(Pump(relay_protocol.TERMINAL_OUTPUT, _beside(sink, lambda: os.dup(master)), sink))
    finally:
        os.close(master)


def _open_input(where: str, streams: Streams, hold: bool) -> None:
    if not where:
        # Opened once more for each: what a guest sets on its descriptor (O_NONBLOCK, say) is no other's.
        streams.stdin = os.open(f"/proc/self/fd/{_ended_pipe()}", os.O_RDONLY | _FLAGS)
        return
    fd = _open_reader(where, hold)
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        # A reader of the FIFO itself would see its end before the client first opens it.
        streams.stdin, theirs = _beside(fd, lambda: os.pipe2(os.O_CLOEXEC))
        streams.pumps.append(Pump(relay_protocol.INPUT, fd, theirs))
    else:
        os.set_blocking(fd, True)
        streams.stdin = fd


def _beside(fd: int, opening: Callable[[], T]) -> T:
    """Open what goes with a descriptor; where that fails, the descriptor is closed."""
    try:
        return opening()
    except BaseException:
        os.close(fd)
        raise


@functools.cache
def _ended_pipe() -> int:
    """A pipe at its end, for standard inputs that were not given: guests wait for it, and /dev/null refuses epoll."""
    ended, writer = os.pipe2(os.O_CLOEXEC)
    os.close(writer)
    return ended


@functools.cache
def _null() -> int:
    """/dev/null, on a read-only mount of its own: a guest that is root would set the times of the host's.

    Raises ``OSError`` where there is too little of something: what is answered once is kept for good.
    """
    place = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    try:
        mount = linux.clone_mount(place, recursive=False)
    except OSError as error:
        if errors.lacking(error):
            os.close(place)
            raise
        return place  # no privilege: then guests have none either
    os.close(place)
    linux.set_mount(mount, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC)
    return mount


def _open_reader(where: str, hold: bool) -> int:
    # Non-blocking: the open of a FIFO for reading would wait for its writer.
    fd = _open("stdin", _path("stdin", where), os.O_RDONLY | os.O_NONBLOCK | _FLAGS)
    if not hold or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | _FLAGS)  # a writer that stays
    finally:
        os.close(fd)


def _open_output(name: str, where: str) -> int:
    if not where:
        return os.open(f"/proc/self/fd/{_null()}", os.O_WRONLY | _FLAGS)
    path = _path(name, where)
    if where.startswith("file://"):
        return _open(name, path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS)
    # Read-write: the guest outlives its reader, and the open never waits; the reader still sees the
    # end, since only the guest's process holds this.
    fd = _open(name, path, os.O_RDWR | os.O_NONBLOCK | _FLAGS)
    os.set_blocking(fd, True)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    try:  # appended to, and never read
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND | _FLAGS)
    finally:
        os.close(fd)


def _path(name: str, where: str) -> str:
    path = where.removeprefix("file://")
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{name} {where!r} is neither an absolute path nor file:///PATH")
    return path


def _open(name: str, path: str, flags: int) -> int:
    """Open a FIFO, a regular file or /dev/null: to open any other device may do something to it."""
    try:
        place, made = _find(path, flags)
        if made:
            return place
        try:
            status = os.fstat(place)
            if not (
                stat.S_ISFIFO(status.st_mode)
                or stat.S_ISREG(status.st_mode)
                or (stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEV_NULL)
            ):
                raise InvalidArgument(f"{name}: {path}: neither a FIFO nor a regular file")
            opened = _null() if stat.S_ISCHR(status.st_mode) else place
            return os.open(f"/proc/self/fd/{opened}", flags & ~os.O_CREAT)
        finally:
            os.close(place)
    except OSError as error:
        raise errors.for_errno(error, InvalidArgument)(f"{name}: {path}: {error.strerror}") from None


def _find(path: str, flags: int) -> tuple[int, bool]:
    """An ``O_PATH`` descriptor of what is there; or the file, made with these flags, and true. Raises ``OSError``."""
    for _ in range(_TRIES):
        try:
            return os.open(path, os.O_PATH | os.O_CLOEXEC), False
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        try:
            return os.open(path, flags | os.O_EXCL, 0o600), True
        except FileExistsError:  # made by another meanwhile, or a link to nowhere
            path = os.path.realpath(path)
    raise FileExistsError(errno.EEXIST, "comes and goes", path)
