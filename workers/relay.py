"""The relay: one process that feeds guests' standard inputs from their clients' FIFOs.

A guest cannot read its FIFO itself: before the client's first open a read would report the end, and
CloseIO could not end it while a writer is there. So each such guest reads a pipe that is fed here.
poll(2) reports no hang-up on a FIFO before its first writer came, which is just what is needed.
Outlives the supervisor, like the forkserver; if it dies, guests see the end of their input.
"""

from __future__ import annotations

import _socket
import posix
import select
import sys

from . import boot
from .protocol import CLOSE, END, PUMP, Frame, ProtocolError, Reader, unpack_numbers

IDLE_SECONDS = 30
_CHUNK = 65536


class Pump:
    """Bytes from one descriptor to another, both non-blocking, until the source ends or the sink is gone."""

    __slots__ = ("closing", "full", "instance", "pending", "sink", "source")

    def __init__(self, instance: int, source: int, sink: int) -> None:
        self.instance = instance
        self.source = source
        self.sink = sink
        self.pending = b""
        self.closing = False
        self.full = False
        posix.set_blocking(source, False)
        posix.set_blocking(sink, False)

    def step(self) -> bool:
        """Move what can be moved; false when it is finished."""
        try:
            while True:
                if self.pending:
                    self.pending = self.pending[posix.write(self.sink, self.pending) :]
                    if self.pending:
                        return True
                self.pending = posix.read(self.source, _CHUNK)
                if not self.pending:
                    return False
        except BlockingIOError:
            # With bytes pending the sink is full; without, the source is empty for now.
            return bool(self.pending) or not self.closing
        except OSError:  # the guest is gone
            return False


class Relay:
    """The loop over all pumps."""

    def __init__(self, listener: _socket.socket) -> None:
        self._listener = listener
        self._readers: dict[int, Reader] = {}
        self._pumps: dict[int, Pump] = {}  # by each of its descriptors
        self._instances: dict[int, Pump] = {}
        self._ending = False
        self._poll = select.poll()
        self._poll.register(listener.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serve until told to end, or until idle for long with nobody connected."""
        while not self._ending:
            needed = self._readers or self._instances
            events = self._poll.poll(None if needed else IDLE_SECONDS * 1000)
            if not events and not needed:
                return
            for fd, _ in events:
                if fd == self._listener.fileno():
                    connection = boot.accept(self._listener)
                    self._readers[connection.fileno()] = Reader(connection)
                    self._poll.register(connection.fileno(), select.POLLIN)
                elif fd in self._readers:
                    self._hear(fd)
                elif fd in self._pumps:
                    self._move(self._pumps[fd])

    def _hear(self, fd: int) -> None:
        reader = self._readers[fd]
        try:
            if reader.receive():
                for frame in reader.frames():
                    self._obey(frame)
                return
        except (ProtocolError, OSError) as error:
            print(f"relay: supervisor dropped: {error}", file=sys.stderr)
        self._poll.unregister(fd)
        del self._readers[fd]
        reader.close()

    def _obey(self, frame: Frame) -> None:
        try:
            if frame.kind == END:
                self._ending = True
                return
            (instance,) = unpack_numbers(frame.body)
            if frame.kind == PUMP and len(frame.fds) == 2:
                pump = Pump(instance, *frame.fds)
                frame.fds = []
                self._instances[instance] = pump
                self._pumps[pump.source] = self._pumps[pump.sink] = pump
                self._poll.register(pump.sink, 0)  # errors only: the guest's end was closed
                self._poll.register(pump.source, select.POLLIN)
            elif frame.kind == CLOSE:
                if instance in self._instances:
                    self._instances[instance].closing = True
                    self._move(self._instances[instance])
            else:
                raise ProtocolError(f"no message of kind {frame.kind} with {len(frame.fds)} descriptors")
        finally:
            frame.close()

    def _move(self, pump: Pump) -> None:
        if pump.step():
            full = bool(pump.pending)
            if full != pump.full:
                pump.full = full
                self._poll.modify(pump.sink, select.POLLOUT if full else 0)
                if full:  # not watched at all meanwhile: poll would report its hang-up again and again
                    self._poll.unregister(pump.source)
                else:
                    self._poll.register(pump.source, select.POLLIN)
            return
        if not pump.full:
            self._poll.unregister(pump.source)
        self._poll.unregister(pump.sink)
        del self._instances[pump.instance]
        for fd in (pump.source, pump.sink):
            del self._pumps[fd]
            posix.close(fd)


def main() -> None:
    """Serve on the path that is the last argument: the entry point of a fresh interpreter."""
    path = sys.argv[-1]
    try:
        boot.default_signals()
        listener = boot.listen(path)
    except OSError as error:
        boot.say_failed(error)
        sys.exit(1)
    boot.say_ready()
    try:
        Relay(listener).run()
    finally:
        posix.unlink(path)
