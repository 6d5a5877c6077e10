"""The logger: writes containers' output to their logs, where an engine leaves that to its runtime (iSulad).

Each guest writes to two FIFOs, whose writing ends are its own. A guest that writes more than the logger reads waits;
one whose log cannot be written goes on, and loses lines. The logger is a process beside the relay, since a slow
disk may hold it up. It outlives the supervisor. If it dies, the FIFOs wait for the next one.
"""

from __future__ import annotations

import posix
import select
import time

from . import boot
from .container_log import JsonFile, Line, Lost, Syslog
from .helper import BYTES, Helper, serve
from .protocol import Frame, ProtocolError, Reader, pack_numbers, unpack, unpack_numbers
from .relay_protocol import FINISH, FINISHED, JSON_FILE, LOG, LOGGING, LOGS, RELEASE, SYSLOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .helper import Handlers

RETRY_SECONDS = 1.0
"""A log that cannot be written is tried again after this time; lines are lost until then."""
PIECE = 16384
"""Bytes of a line that go into the log at once, as in Docker's and iSulad's logs."""
_CHUNK = 65536
_STREAMS = ("stdout", "stderr")


class ContainerLog:
    """A guest's log, and its streams that have not ended."""

    __slots__ = ("instance", "lost", "name", "retry", "sink", "streams", "waiting")

    def __init__(self, instance: int, name: str, sink: JsonFile | Syslog) -> None:
        self.instance = instance
        self.name = name
        self.sink = sink
        self.streams: list[Stream] = []
        self.lost = 0
        self.retry = 0.0  # when, by time.monotonic()
        self.waiting: list[Reader] = []


class Stream:
    """One of a guest's streams: the FIFO's reading end, and the begin of a line whose end has not come."""

    __slots__ = ("fd", "log", "name", "rest")

    def __init__(self, name: str, fd: int, log: ContainerLog) -> None:
        self.name = name
        self.fd = fd
        self.log = log
        self.rest = b""

    def cut(self, data: bytes) -> list[Line]:
        """Cut what has come into lines, and long ones into pieces. A line without an end stays for the next time."""
        *whole, rest = (self.rest + data).split(b"\n")
        lines: list[Line] = []
        for line in whole:
            *pieces, last = _pieces(line)
            lines += [(self.name, piece) for piece in pieces]
            lines.append((self.name, last + b"\n"))
        *pieces, self.rest = _pieces(rest)
        return lines + [(self.name, piece) for piece in pieces]


class Logger(Helper):
    """The loop over all streams."""

    def __init__(self, listener: boot.ControlListener) -> None:
        super().__init__("logger", listener, _HANDLERS)
        self._streams: dict[int, Stream] = {}  # by descriptor
        self._logs: dict[int, ContainerLog] = {}  # by instance

    def _needed(self) -> bool:
        return bool(self._logs)

    def _serve(self, fd: int, event: int) -> None:
        if fd in self._streams:
            self._read(self._streams[fd])

    def _log(self, reader: Reader, frame: Frame) -> None:
        """Begin a log. A number that it knows already is a new supervisor's, that wants to be sure."""
        fields = unpack(frame.body)
        if len(fields) < 3:
            raise ProtocolError(f"a log has 3 fields, not {len(fields)}")
        instance, kind, *options = unpack_numbers(fields[0])
        container, name = fields[1].decode(errors="replace"), fields[2]
        error = 0
        if instance in self._logs:
            pass
        elif frame.lost:
            error = _EMFILE
        else:
            try:
                self._begin(ContainerLog(instance, container, _sink(kind, options, name, frame)), frame)
            except OSError as failure:
                error = failure.errno or _EIO
        reader.answer(LOGGING, pack_numbers(instance, error))

    def _begin(self, log: ContainerLog, frame: Frame) -> None:
        try:
            for name, fd in zip(_STREAMS, frame.fds[:2], strict=True):
                posix.set_blocking(fd, False)
                self._poll.register(fd, select.EPOLLIN)
                stream = self._streams[fd] = Stream(name, fd, log)
                log.streams.append(stream)
        except OSError:
            for stream in log.streams:
                self._poll.unregister(stream.fd)
                del self._streams[stream.fd]
            log.sink.close()
            raise
        self._logs[log.instance] = log
        frame.fds = frame.fds[2:]

    def _release(self, reader: Reader, frame: Frame) -> None:
        super()._release(reader, frame)
        reader.answer(LOGS, pack_numbers(*self._logs))

    def _end(self, reader: Reader, frame: Frame) -> None:
        """End now, or by itself when the logs are complete."""
        self._ending = not self._logs

    def _finish(self, reader: Reader, frame: Frame, instance: int) -> None:
        """Answer when all that the guest wrote is in its log. The guest has ended, or is about to."""
        log = self._logs.get(instance)
        if log is None:
            reader.answer(FINISHED, pack_numbers(instance))
        else:
            log.waiting.append(reader)

    def _read(self, stream: Stream) -> None:
        try:
            data = posix.read(stream.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._write(stream.log, stream.cut(data))
            return
        if stream.rest:
            self._write(stream.log, [(stream.name, stream.rest)])
        self._poll.unregister(stream.fd)
        del self._streams[stream.fd]
        posix.close(stream.fd)
        stream.log.streams.remove(stream)
        if not stream.log.streams:
            self._close(stream.log)

    def _write(self, log: ContainerLog, lines: list[Line]) -> None:
        if not lines:
            return
        if log.lost and time.monotonic() < log.retry:
            log.lost += len(lines)
            return
        try:
            log.sink.write(lines)
        except Lost as lost:
            if not log.lost:
                self._say(f"{log.name}: its log cannot be written: {lost.error.strerror}: lines are lost until it can")
            log.lost += lost.lines
            log.retry = time.monotonic() + RETRY_SECONDS
            return
        if log.lost:
            self._say(f"{log.name}: its log can be written again: {log.lost} lines were lost")
            log.lost = 0

    def _close(self, log: ContainerLog) -> None:
        if log.lost:
            self._say(f"{log.name}: ended: {log.lost} lines of its log were lost")
        log.sink.close()
        del self._logs[log.instance]
        for reader in log.waiting:
            try:
                reader.answer(FINISHED, pack_numbers(log.instance))
            except OSError:  # that supervisor is gone
                pass


_EIO, _EMFILE = 5, 24
_HANDLERS: Handlers = {
    LOG: (Logger._log, BYTES, 3),
    FINISH: (Logger._finish, 1, 0),
    RELEASE: (Logger._release, 0, 0),
}


def _sink(kind: int, options: list[int], name: bytes, frame: Frame) -> JsonFile | Syslog:
    """Open where a log goes; it takes over the folder's descriptor, the last of the frame's. Raises ``OSError``."""
    if kind == SYSLOG and len(options) == 1:
        return Syslog(name, *options)
    if kind == JSON_FILE and len(options) == 2 and name and b"/" not in name:
        sink = JsonFile(frame.fds[2], name, *options)
        frame.fds.pop()
        return sink
    raise ProtocolError(f"no log of kind {kind} with {len(options)} options")


def _pieces(line: bytes) -> list[bytes]:
    """A line in pieces that are not too long; none ends inside of a character (UTF-8)."""
    pieces = []
    while len(line) > PIECE:
        end = PIECE
        while end > PIECE - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        if line[end] & 0xC0 == 0x80:
            end = PIECE  # this is no UTF-8
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def main() -> None:
    """The entry point of a fresh interpreter."""
    serve(Logger)
