"""The relay: one process between guests and their clients' FIFOs, where a FIFO itself would not do.

Standard input: a guest cannot read its FIFO itself. Before the client's first open a read would report the
end, and CloseIO could not end it while a writer is there. So such a guest reads a pipe that is fed here;
poll(2) reports no hang-up on a FIFO before its first writer came, which is just what is needed.
Terminals: the master side of each is held here, between the client's input and output FIFOs.
Connections: clients take a lost Task API connection for the end of their container. So those with a pending Wait
are kept open here, with a note of what is pending, for the supervisor that follows one that died.
The relay outlives the supervisor; if it dies, guests see the end of their input, and terminals hang up.
"""

from __future__ import annotations

import fcntl
import posix
import resource
import select
import struct
import sys

from . import boot
from .protocol import (
    ALL,
    BOARD,
    CLOSE,
    DROP,
    END,
    FULL,
    INPUT,
    KEEP,
    KEPT,
    NOTE,
    NOTED,
    PUMP,
    PUMPED,
    RESIZE,
    TAKE,
    TAKEN,
    TERMINAL_INPUT,
    TERMINAL_OUTPUT,
    Frame,
    ProtocolError,
    Reader,
    pack_numbers,
    unpack_numbers,
)

IDLE_SECONDS = 30
SPARE = 512
"""Descriptors that no kept connection takes. Pumps come first: a kept connection is closed for one that has no room."""
_CHUNK = 65536
_TIOCSWINSZ = 0x5414  # ioctl_tty(2)
_END_OF_INPUT = b"\x04"  # what a terminal takes for the end (VEOF, termios(3))


class Pump:
    """Bytes from one descriptor to another, both non-blocking, until the source ends or the sink is gone."""

    __slots__ = ("closing", "full", "instance", "kind", "pending", "sink", "source")

    def __init__(self, instance: int, kind: int, source: int, sink: int) -> None:
        self.instance = instance
        self.kind = kind
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
            return bool(self.pending) or not self._close()
        except OSError:  # the guest, or its terminal, is gone
            return False

    def _close(self) -> bool:
        """Whether this pump ends here because CloseIO asked for it."""
        if self.closing and self.kind == TERMINAL_INPUT:
            try:
                posix.write(self.sink, _END_OF_INPUT)
            except OSError:
                pass
        return self.closing


class Kept:
    """A client's connection, and the supervisor's notes on it, by stream."""

    __slots__ = ("fd", "notes")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.notes: dict[int, bytes] = {}


class Relay:
    """The loop over all pumps."""

    def __init__(self, listener: boot.ControlListener) -> None:
        self._listener = listener
        self._readers: dict[int, Reader] = {}
        self._pumps: dict[int, Pump] = {}  # by each of its descriptors
        self._inputs: dict[int, Pump] = {}  # by instance
        self._terminals: dict[int, Pump] = {}
        self._kept: dict[int, Kept] = {}  # by the supervisor's number for it
        self._keys: dict[int, int] = {}  # by descriptor
        self._board = -1  # memory of the supervisor's, for the one that follows it
        self._ending = False
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = max(limit - SPARE, limit // 2)
        """Pumps' and connections' descriptors."""
        self._full = False  # with pumps alone
        self._files: set[int] = set()  # what epoll does not take: regular files, always ready
        self._poll = select.epoll()  # and not poll: there may be tens of thousands to look at
        self._poll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Serve until told to end, or until idle for long with nobody connected."""
        while not self._ending:
            needed = self._readers or self._pumps or self._kept
            events = self._poll.poll(0 if self._files else None if needed else IDLE_SECONDS)
            if not events and not needed:
                return
            events += [(fd, select.EPOLLIN) for fd in self._files]
            for fd, event in events:
                if fd == self._listener.fileno():
                    connection = self._listener.accept()
                    if connection is not None:
                        self._readers[connection.fileno()] = Reader(connection)
                        self._poll.register(connection.fileno(), select.EPOLLIN)
                        if self._full:
                            self._tell_full(True)
                elif fd in self._readers:
                    self._hear(fd)
                elif fd in self._keys:
                    self._let_go(self._keys[fd])  # its client hung up
                elif fd in self._pumps:
                    pump = self._pumps[fd]
                    if fd == pump.sink and event & (select.EPOLLERR | select.EPOLLHUP):
                        self._drop(pump)  # nobody reads any more
                    else:
                        self._move(pump)

    def _hear(self, fd: int) -> None:
        reader = self._readers[fd]
        try:
            if reader.receive():
                for frame in reader.frames():
                    self._obey(frame, reader)
                return
        except (ProtocolError, OSError, ValueError, MemoryError) as error:  # ValueError: too few numbers, or too many
            print(f"relay: supervisor dropped: {error}", file=sys.stderr)
        self._poll.unregister(fd)
        del self._readers[fd]
        reader.close()
        self._listener.left()

    def _obey(self, frame: Frame, reader: Reader) -> None:
        try:
            if frame.kind in (KEEP, NOTE, DROP, TAKE, BOARD):
                self._keep(frame, reader)
                return
            numbers = unpack_numbers(frame.body)
            if frame.kind == PUMP and len(numbers) == 2 and (frame.lost or len(frame.fds) == 2):
                if not frame.lost:
                    self._add(Pump(*numbers, *frame.fds))
                    frame.fds = []
                reader.answer(PUMPED, pack_numbers(*numbers, int(not frame.lost)))
            elif frame.kind == CLOSE and len(numbers) == 1:
                pump = self._inputs.get(numbers[0])
                if pump is not None:
                    pump.closing = True
                    self._move(pump)
            elif frame.kind == RESIZE and len(numbers) == 3:
                instance, width, height = numbers
                if instance in self._terminals:
                    size = struct.pack("HHHH", height, width, 0, 0)
                    fcntl.ioctl(self._terminals[instance].source, _TIOCSWINSZ, size)
            elif frame.kind == END:
                self._ending = True
            else:
                raise ProtocolError(f"no message of kind {frame.kind} with {len(frame.fds)} descriptors")
        finally:
            frame.close()

    def _keep(self, frame: Frame, reader: Reader) -> None:
        if frame.kind == BOARD and frame.lost:
            print("relay: the calls under way are not kept: the open-file limit is reached", file=sys.stderr)
            return
        if frame.kind == BOARD and len(frame.fds) == 1:
            if self._board >= 0:
                posix.close(self._board)
            self._board = frame.fds.pop()
            return
        if frame.kind == TAKE:
            if self._board >= 0:
                reader.answer(BOARD, b"", [self._board])
            for key, kept in self._kept.items():
                reader.answer(KEPT, pack_numbers(key), [kept.fd])
                for note in kept.notes.values():
                    reader.answer(NOTED, note)
            reader.answer(TAKEN, b"")
            return
        key, *stream = unpack_numbers(frame.body[:16])
        kept_one = self._kept.get(key)
        if frame.kind == KEEP and frame.lost:
            print("relay: a client's connection is not kept: the open-file limit is reached", file=sys.stderr)
        elif frame.kind == KEEP and len(frame.fds) == 1 and kept_one is None:
            if len(self._pumps) + len(self._kept) < self._most:  # or else it is closed here if its server dies
                fd = frame.fds.pop()
                self._kept[key] = Kept(fd)
                self._keys[fd] = key
                self._poll.register(fd, 0)  # hang-ups only: what comes in is for the supervisor
        elif frame.kind == DROP and key == ALL:
            for each in list(self._kept):
                self._let_go(each)
        elif kept_one is None:
            pass
        elif frame.kind == NOTE and stream:
            note = frame.body[16:]
            if note:
                kept_one.notes[stream[0]] = note
            else:
                kept_one.notes.pop(stream[0], None)
        elif frame.kind == DROP:
            self._let_go(key)

    def _let_go(self, key: int) -> None:
        kept = self._kept.pop(key)
        del self._keys[kept.fd]
        self._poll.unregister(kept.fd)
        posix.close(kept.fd)

    def _add(self, pump: Pump) -> None:
        if pump.kind not in (INPUT, TERMINAL_INPUT, TERMINAL_OUTPUT):
            raise ProtocolError(f"no pump of kind {pump.kind}")
        while self._kept and len(self._pumps) + len(self._kept) >= self._most:
            self._let_go(next(iter(self._kept)))
        (self._terminals if pump.kind == TERMINAL_OUTPUT else self._inputs)[pump.instance] = pump
        self._pumps[pump.source] = self._pumps[pump.sink] = pump
        try:
            self._poll.register(pump.sink, 0)  # errors only: that its other end was closed
        except PermissionError:
            pass  # a regular file or the like: never full, and has no other end
        self._watch(pump.source)
        if len(self._pumps) >= self._most and not self._full:
            self._tell_full(True)

    def _tell_full(self, full: bool) -> None:
        """Whether there is room for pumps. There are descriptors yet for those that are on their way."""
        self._full = full
        for reader in self._readers.values():
            try:
                reader.answer(FULL, pack_numbers(int(full)))
            except OSError:  # it is gone, which shows when it is read from
                pass

    def _watch(self, source: int) -> None:
        try:
            self._poll.register(source, select.EPOLLIN)
        except PermissionError:
            self._files.add(source)

    def _unwatch(self, source: int) -> None:
        if source in self._files:
            self._files.discard(source)
        else:
            self._poll.unregister(source)

    def _move(self, pump: Pump) -> None:
        if not pump.step():
            self._drop(pump)
            return
        full = bool(pump.pending)
        if full != pump.full:
            pump.full = full
            self._poll.modify(pump.sink, select.EPOLLOUT if full else 0)
            if full:  # not watched at all meanwhile: epoll would report its hang-up again and again
                self._unwatch(pump.source)
            else:
                self._watch(pump.source)

    def _drop(self, pump: Pump) -> None:
        table = self._terminals if pump.kind == TERMINAL_OUTPUT else self._inputs
        if table.get(pump.instance) is pump:
            del table[pump.instance]
        if not pump.full:
            self._unwatch(pump.source)
        try:
            self._poll.unregister(pump.sink)
        except OSError:  # it was never watched
            pass
        for fd in (pump.source, pump.sink):
            del self._pumps[fd]
            posix.close(fd)
        if self._full and len(self._pumps) < self._most:
            self._tell_full(False)


def main() -> None:
    """Serve on the path that is the last argument: the entry point of a fresh interpreter."""
    path = sys.argv[-1]
    try:
        boot.default_signals()
        listener = boot.ControlListener(path)
    except OSError as error:
        boot.say_failed(error)
        sys.exit(1)
    boot.say_ready()
    try:
        Relay(listener).run()
    finally:
        posix.unlink(path)
