"""The relay: one process that holds what has to outlive the supervisor.

Standard input: a guest cannot read its FIFO itself. Before the client's first open a read would report the
end, and CloseIO could not end it while a writer is there. So such a guest reads a pipe that is fed here;
poll(2) reports no hang-up on a FIFO before its first writer came, which is just what is needed.
Terminals: the master side of each is held here, between the client's input and output FIFOs.
Listening sockets: they are held here, so that clients that connect while no supervisor is there wait for the next one.
gRPC's library takes no listening socket from elsewhere: its clients are accepted here, and their bytes forwarded.
Connections: clients take a lost Task API connection for the end of their container. So those with a pending Wait
are kept open here, and the supervisor's journal of pending calls is held, for the next supervisor.
If the relay dies, guests see the end of their input, and terminals hang up.
"""

from __future__ import annotations

import _socket
import fcntl
import posix
import resource
import select
import struct

from . import boot
from .helper import BYTES, Helper, serve
from .protocol import Frame, ProtocolError, Reader, first_numbers, pack_numbers, unpack
from .pumps import CONNECTION, KINDS, Forward, Pump
from .relay_protocol import (
    ALL,
    CLOSE,
    DROP,
    FORWARD,
    FULL,
    HELD,
    HIGHEST_VERSION,
    HOLD,
    JOURNAL,
    KEEP,
    KEPT,
    LOWEST_VERSION,
    PUMP,
    PUMPED,
    RELEASE,
    RESIZE,
    STAND,
    STANDING,
    TAKE,
    TAKEN,
    TERMINAL_OUTPUT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .helper import Handlers

SPARE = 512
"""Descriptors that no kept connection takes. Pumps come first: a kept connection is closed for one that has no room."""
_TIOCSWINSZ = 0x5414  # ioctl_tty(2)


class Relay(Helper):
    """The loop over all that is held."""

    def __init__(self, listener: boot.ControlListener) -> None:
        super().__init__("relay", listener, _HANDLERS)
        self._pumps: dict[int, Pump] = {}  # by each of its descriptors
        self._inputs: dict[int, Pump] = {}  # by instance
        self._terminals: dict[int, Pump] = {}
        self._kept: dict[int, int] = {}  # connections' descriptors by the supervisor's number
        self._keys: dict[int, int] = {}  # the numbers by descriptor
        self._held: dict[int, int] = {}  # other descriptors, by their numbers
        self._forwarding: dict[int, bytes] = {}  # listening ones whose clients are let in, and the servers' paths
        self._standing: list[tuple[int, int]] = []  # clients let in as the server went, and their listeners' numbers
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = max(limit - SPARE, limit // 2)
        """Pumps' and connections' descriptors."""
        self._most_forwards = limit // 8
        """Forwards, of which each client has two with two descriptors each: guests' inputs have room beside them."""
        self._forwards = 0
        self._full = False  # with pumps alone
        self._said_full = False

    def _needed(self) -> bool:
        return bool(self._pumps or self._kept or self._held.keys() - {JOURNAL})

    def _receive(self, fd: int) -> None:
        super()._receive(fd)
        if not self._readers:  # clients wait for the next supervisor
            for listener in list(self._forwarding):
                self._stop_accepting(listener)

    def _brings_descriptors(self, event: tuple[int, int]) -> bool:
        """Clients that are let in, too."""
        return event[0] in self._forwarding or super()._brings_descriptors(event)

    def _serve(self, fd: int, event: int) -> None:
        if fd in self._keys:
            self._drop_connection(self._keys[fd])  # its client hung up
        elif fd in self._pumps:
            pump = self._pumps[fd]
            if fd == pump.sink and event & (select.EPOLLERR | select.EPOLLHUP):
                self._lose_sink(pump)
            else:
                self._move(pump)
        elif fd in self._forwarding:
            self._accept_client(fd)

    def _hello(self, reader: Reader, frame: Frame, lowest: int, highest: int) -> None:
        super()._hello(reader, frame, lowest, highest)
        if self._full and lowest <= HIGHEST_VERSION and highest >= LOWEST_VERSION:
            reader.answer(FULL, pack_numbers(1))

    # Messages about streams

    def _start_pump(self, reader: Reader, frame: Frame, instance: int, kind: int) -> None:
        if not frame.lost:
            if kind not in KINDS:
                raise ProtocolError(f"no pump of kind {kind}")
            self._add(Pump(instance, kind, *frame.fds))
            frame.fds = []
        reader.answer(PUMPED, pack_numbers(instance, kind, int(not frame.lost)))

    def _close_input(self, reader: Reader, frame: Frame, instance: int) -> None:
        pump = self._inputs.get(instance)
        if pump is not None:
            pump.closing = True
            self._move(pump)

    def _resize(self, reader: Reader, frame: Frame, instance: int, width: int, height: int) -> None:
        if instance in self._terminals:
            fcntl.ioctl(self._terminals[instance].source, _TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    # What is kept for the next supervisor

    def _keep(self, reader: Reader, frame: Frame, key: int) -> None:
        """Hold a client's connection. Where there is no room it closes with its supervisor, as without a relay."""
        if frame.lost or len(self._pumps) + len(self._kept) >= self._most:
            self._say_full()
        elif key not in self._kept:
            fd = self._kept[key] = frame.fds.pop()
            self._keys[fd] = key
            self._poll.register(fd, 0)  # hang-ups only: what comes in is for the supervisor

    def _drop(self, reader: Reader, frame: Frame, key: int) -> None:
        for each in list(self._kept) if key == ALL else [key]:
            if each in self._kept:
                self._drop_connection(each)

    def _hold(self, reader: Reader, frame: Frame, number: int) -> None:
        if frame.lost:
            self._say("a descriptor is not held: the open-file limit is reached")
            return
        if number in self._held:
            self._stop_accepting(self._held[number])
            posix.close(self._held[number])
        self._held[number] = frame.fds.pop()

    def _forward(self, reader: Reader, frame: Frame) -> None:
        """Hold a listening socket, and forward its clients' bytes to the server on a path."""
        numbers, path, *_ = unpack(frame.body)
        (number,) = first_numbers(numbers, 1)
        if not frame.lost or number not in self._held:
            self._hold(reader, frame, number)
        if number in self._held:  # where we are out of descriptors, it is the one that an earlier supervisor sent
            listener = self._held[number]
            self._stop_accepting(listener)
            if not _listens(listener):
                raise ProtocolError("what is to be forwarded is no listening socket")
            posix.set_blocking(listener, False)
            self._forwarding[listener] = path
            self._poll.register(listener, select.EPOLLIN)
            standing, self._standing = self._standing, []
            for client, its_number in standing:
                if its_number == number:
                    self._connect(client, path, number)
                else:
                    self._standing.append((client, its_number))

    def _accept_client(self, listener: int) -> None:
        if self._forwards >= self._most_forwards:  # until one hangs up, clients wait in the queue
            self._poll.modify(listener, 0)
            return
        sock = _socket.socket(fileno=listener)
        try:
            client, _ = sock._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except OSError:  # out of descriptors: a kept connection makes room, or else it waits
            if self._kept:
                self._drop_connection(next(iter(self._kept)))
            return
        finally:
            sock.detach()
        number = next(number for number, fd in self._held.items() if fd == listener)
        if not self._connect(client, self._forwarding[listener], number):
            self._stop_accepting(listener)

    def _stand(self, reader: Reader, frame: Frame, number: int) -> None:
        """Take a client that another relay had let in. Without room it is to try again.

        Where a supervisor died while it handed them over, both relays have them: two forwards would share the bytes.
        """
        if not frame.lost and not any(_same(fd, frame.fds[0]) for fd, _ in self._standing):
            self._standing.append((frame.fds.pop(), number))

    def _connect(self, client: int, path: bytes, number: int) -> bool:
        """Connect a client to the server behind us; false where that is gone, and the client waits for the next."""
        spare: list[int] = []
        try:
            server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            spare.append(server.detach())
            for fd in (spare[0], client):
                spare.append(posix.dup(fd))
        except OSError:  # out of descriptors: the client is to try again
            for fd in (client, *spare):
                posix.close(fd)
            return True
        there, back, client_again = spare
        server = _socket.socket(fileno=there)
        try:
            server.setblocking(False)
            server.connect(path)
        except OSError as error:
            for fd in (back, client_again, server.detach()):
                posix.close(fd)
            if isinstance(error, BlockingIOError):  # its backlog is full
                posix.close(client)
                return True
            self._standing.append((client, number))
            return False
        server.detach()
        pairs = Forward(client, there), Forward(back, client_again)
        for pump in pairs:
            self._add(pump)
        return True

    def _stop_accepting(self, listener: int) -> None:
        if self._forwarding.pop(listener, None) is not None:
            self._poll.unregister(listener)

    def _take(self, reader: Reader, frame: Frame) -> None:
        self._hear_others(reader)
        for number, fd in self._held.items():
            reader.answer(HELD, pack_numbers(number), [fd])
        for fd, number in self._standing:
            reader.answer(STANDING, pack_numbers(number), [fd])
        for key, fd in self._kept.items():
            reader.answer(KEPT, pack_numbers(key), [fd])
        reader.answer(TAKEN, b"")

    def _release(self, reader: Reader, frame: Frame) -> None:
        """Another relay has all that was taken; inputs and terminals stay."""
        super()._release(reader, frame)
        for key in list(self._kept):
            self._drop_connection(key)
        for listener in list(self._forwarding):
            self._stop_accepting(listener)
        for fd in (*self._held.values(), *(fd for fd, _ in self._standing)):
            posix.close(fd)
        self._held.clear()
        self._standing.clear()

    def _drop_connection(self, key: int) -> None:
        fd = self._kept.pop(key)
        del self._keys[fd]
        self._poll.unregister(fd)
        posix.close(fd)
        self._said_full = False

    def _say_full(self) -> None:
        """Say it once, until there is room again."""
        if not self._said_full:
            self._said_full = True
            self._say("no room for more clients' connections (open-file limit): they close if the supervisor dies")

    # Pumps

    def _add(self, pump: Pump) -> None:
        while self._kept and len(self._pumps) + len(self._kept) >= self._most:
            self._drop_connection(next(iter(self._kept)))
        if pump.kind == CONNECTION:
            self._forwards += 1
        else:
            table = self._terminals if pump.kind == TERMINAL_OUTPUT else self._inputs
            if pump.instance in table:  # of a start that failed: it would take of what is the next one's
                self._drop_pump(table[pump.instance])
            table[pump.instance] = pump
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

    def _lose_sink(self, pump: Pump) -> None:
        """Nobody reads any more."""
        if not isinstance(pump, Forward):
            self._drop_pump(pump)
            return
        pump.draining = True
        self._poll.unregister(pump.sink)
        pump.pending = b""
        if pump.full:
            pump.full = False
            self._watch(pump.source)
        self._move(pump)

    def _move(self, pump: Pump) -> None:
        if not pump.step():
            self._drop_pump(pump)
            return
        full = bool(pump.pending)
        if full != pump.full:
            pump.full = full
            self._poll.modify(pump.sink, select.EPOLLOUT if full else 0)
            if full:  # not watched at all meanwhile: epoll would report its hang-up again and again
                self._unwatch(pump.source)
            else:
                self._watch(pump.source)

    def _drop_pump(self, pump: Pump) -> None:
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
        self._said_full = False
        if pump.kind == CONNECTION:
            self._forwards -= 1
            for listener in self._forwarding:
                self._poll.modify(listener, select.EPOLLIN)
        if self._full and len(self._pumps) < self._most:
            self._tell_full(False)


def _same(one: int, other: int) -> bool:
    """Whether two descriptors are of one socket."""
    return posix.fstat(one).st_ino == posix.fstat(other).st_ino


def _listens(fd: int) -> bool:
    """Whether it is a listening socket (socket(7)). Raises ``OSError`` where it is no socket."""
    sock = _socket.socket(fileno=fd)
    try:
        return bool(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


_HANDLERS: Handlers = {
    PUMP: (Relay._start_pump, 2, 2),
    CLOSE: (Relay._close_input, 1, 0),
    RESIZE: (Relay._resize, 3, 0),
    FORWARD: (Relay._forward, BYTES, 1),
    KEEP: (Relay._keep, 1, 1),
    DROP: (Relay._drop, 1, 0),
    HOLD: (Relay._hold, 1, 1),
    TAKE: (Relay._take, 0, 0),
    STAND: (Relay._stand, 1, 1),
    RELEASE: (Relay._release, 0, 0),
}


def main() -> None:
    """The entry point of a fresh interpreter."""
    serve(Relay)
