"""The supervisor's side of the relay: guests' inputs and terminals, and clients' connections, outlive us in it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_api.errors import OutOfDescriptors, Unavailable
from sandbox_api.ttrpc.keeper import MIDWAY
from workers import protocol, relay_protocol

from ..host import sockets
from ..host.counters import Counters
from ..host.futures import fail, settle
from ..oci.streams import Pump
from .channel import HelperFailed
from .earlier_helper import ANSWER_SECONDS, EarlierHelper
from .helper_client import HelperClient
from .journal import Journal, Pending

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Kept:
    """A client's connection that outlived a supervisor, and what is pending on it. ``fd`` is the holder's."""

    key: int
    fd: int
    pending: list[Pending]


class RelayClient(HelperClient):
    """Hands pumps and connections to the relay process."""

    def __init__(self, path: str, counters: Counters | None = None) -> None:
        super().__init__("relay", path, counters)
        self._journal: Journal | None = None
        self.began = False
        """Whether we started the relay, and no other had what this one would have."""
        self._keys = 0  # numbers above this were never given to a connection,
        self._free: list[int] = []  # and these are given to none any more
        self._listeners: dict[int, socket.socket] = {}  # by their numbers in the protocol
        self._unknown: dict[int, int] = {}  # descriptors that a later version had held, by their numbers
        self._forwards: dict[int, str] = {}  # paths of the servers behind some of them
        self._connections: dict[int, int] = {}  # kept connections' descriptors, by their numbers
        self._told: dict[int, int] = {}  # descriptors of those that a relay keeps, by their numbers, as it tells them
        self._full = False
        self._taken: asyncio.Future[None] | None = None
        self._pumping: dict[tuple[int, int], asyncio.Future[bool]] = {}  # by instance and kind of pump

    def _hand_over(self) -> None:
        # The relay before died, or hung up: the connections that it kept are to outlive us even so.
        if self._journal is None:
            return
        self._helper.send(relay_protocol.DROP, protocol.pack_numbers(relay_protocol.ALL))
        self._hold(relay_protocol.JOURNAL, self._journal.fd)
        self._hold_listeners()
        for number, server in self._forwards.items():
            self.forward(number, server)
        for key, fd in self._connections.items():
            self._helper.send(relay_protocol.KEEP, protocol.pack_numbers(key), [fd])

    async def pump(self, instance: int, pump: Pump) -> None:
        """Move bytes for an instance until one side ends. The descriptors stay the caller's.

        Raises ``ResourceExhausted`` where the relay has no descriptors for it, ``Unavailable`` where it is away.
        """
        await self.ready()
        if self._full:
            raise OutOfDescriptors("too many standard inputs and terminals are open: raise the open-file limit")
        key = instance, pump.kind
        answer = self._pumping[key] = asyncio.get_running_loop().create_future()
        try:
            self._helper.send(relay_protocol.PUMP, protocol.pack_numbers(*key), [pump.source, pump.sink])
            async with asyncio.timeout(ANSWER_SECONDS):
                if not await answer:
                    raise OutOfDescriptors("the relay has too many open files: its limit is reached")
        except TimeoutError:
            raise Unavailable("the relay does not answer: try again") from None
        finally:
            del self._pumping[key]

    async def close_input(self, instance: int) -> None:
        """End an instance's input after what is in its FIFO already."""
        await self.ready()
        self._helper.send(relay_protocol.CLOSE, protocol.pack_numbers(instance))
        for earlier in self._earlier:  # one of them may have it
            earlier.tell(relay_protocol.CLOSE, instance)

    async def resize(self, instance: int, width: int, height: int) -> None:
        """Set the size of an instance's terminal, in characters."""
        await self.ready()
        self._helper.send(relay_protocol.RESIZE, protocol.pack_numbers(instance, width, height))
        for earlier in self._earlier:
            earlier.tell(relay_protocol.RESIZE, instance, width, height)

    async def take(self) -> list[Kept]:
        """Take over the connections and the journal of the supervisor before us.

        The connections stay kept until they are dropped. Raises ``ResourceExhausted``, ``Unavailable`` or
        ``HelperFailed``.
        """
        joined = await self._join_earlier()  # first: where one cannot be joined, nothing has happened
        await self.ready()
        self._taken = asyncio.get_running_loop().create_future()
        self._helper.send(relay_protocol.TAKE, b"")
        await self._taken
        await self._inherit(joined)
        if self._journal is None:
            self._journal = Journal()
            self.began = bool(self._helper.pid)
            self._hold(relay_protocol.JOURNAL, self._journal.fd)
        pending = self._journal.pending()
        kept = self._sort_out(pending)
        for calls in pending.values():  # their clients are gone
            for call in calls:
                self._journal.end(call.place)
        self._connections = {each.key: each.fd for each in kept}
        self._keys = max(self._connections, default=0)
        self._free.extend(set(range(1, self._keys)).difference(self._connections))
        return kept

    def _sort_out(self, pending: dict[int, list[Pending]]) -> list[Kept]:
        """The connections that can be continued, with their calls out of ``pending``; the others are closed."""
        told, self._told = self._told, {}
        lost = {key for key, fd in told.items() if fd < 0}
        midway = {key for key in told.keys() - lost if any(call.stream == MIDWAY for call in pending.get(key, []))}
        if lost:
            log.error("%d clients' connections are given up: no descriptors came for them", len(lost))
        if midway:
            log.error("%d clients' connections are closed: the daemon ended within a frame of theirs", len(midway))
        for key in lost | midway:
            self._tell(relay_protocol.DROP, protocol.pack_numbers(key), [])
        for key in midway:
            os.close(told[key])
        return [Kept(key, fd, pending.pop(key, [])) for key, fd in told.items() if key not in lost | midway]

    async def _inherit(self, joined: list[EarlierHelper]) -> None:
        """Have our relay hold what those of other builds held. Raises ``Unavailable``, ``HelperFailed``.

        They give it up only when ours has it. Where we die before that both do, and the next supervisor sees one
        connection twice by its number. The journal goes last: where ours has none, it may lack others, too.
        """
        ours = set(self._told)
        for earlier in joined:
            self._taken = asyncio.get_running_loop().create_future()
            earlier.tell(relay_protocol.TAKE)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._taken
            except (Unavailable, TimeoutError):
                log.error("a relay of another build died: what it held is lost")
        if not joined:
            return
        for key, fd in self._told.items():
            if key not in ours and fd >= 0:
                self._helper.send(relay_protocol.KEEP, protocol.pack_numbers(key), [fd])
        self._hold_listeners()
        if self._journal is not None:
            self._hold(relay_protocol.JOURNAL, self._journal.fd)
        await self._greet()
        for earlier in joined:
            earlier.tell(relay_protocol.RELEASE)

    def listen(self, number: int, path: Path) -> socket.socket:
        """The listening socket of a path: the one that an earlier supervisor left in the relay, or a new one.

        It outlives us in the relay: clients that connect while no supervisor is there wait for the next one. It stays
        the relay client's. Raises ``SocketTaken``.
        """
        held = self._listeners.get(number)
        if held is None or not sockets.is_bound(held, path):
            if held is not None:
                Path(held.getsockname()).unlink(missing_ok=True)
                held.close()
            self._listeners[number] = held = sockets.listen(path)
            self._hold(number, held.fileno())
        held.setblocking(False)
        return held

    def forward(self, number: int, server: str) -> None:
        """Let the clients of a listening socket in, and forward their bytes to the server on this path."""
        self._forwards[number] = server
        body = protocol.pack([protocol.pack_numbers(number), os.fsencode(server)])
        self._helper.send(relay_protocol.FORWARD, body, [self._listeners[number].fileno()])

    def unlink(self) -> None:
        """Remove the listening sockets: clients must not wait for a next supervisor."""
        for listener in self._listeners.values():
            Path(listener.getsockname()).unlink(missing_ok=True)

    def reserve(self, fd: int) -> int:
        """A number for a connection that is to be kept open beyond our death. The descriptor stays the caller's, who
        drops the connection before closing it."""
        if self._free:
            key = self._free.pop()
        else:
            key = self._keys = self._keys + 1
        self._connections[key] = fd
        return key

    def keep(self, key: int) -> None:
        """Keep a connection open from now on. A relay that has it without its calls in the journal would let its client
        wait for ever."""
        self._tell(relay_protocol.KEEP, protocol.pack_numbers(key), [self._connections[key]])

    def begin(self, key: int, stream: int, request: bytes) -> int:
        """Journal a call on a kept connection; the place to ``end`` it at. Raises ``OSError``."""
        return self._journal.begin(key, stream, request) if self._journal is not None else 0

    def end(self, place: int) -> None:
        """Forget a call: it has been answered, or its client is gone."""
        if self._journal is not None:
            self._journal.end(place)

    def drop(self, key: int) -> None:
        """Keep a connection no longer: it is closed, and its calls are ended."""
        del self._connections[key]
        self._tell(relay_protocol.DROP, protocol.pack_numbers(key), [])
        self._free.append(key)

    def close(self) -> None:
        """Disconnect; the relay keeps running while it has something to hold."""
        super().close()
        for listener in self._listeners.values():
            listener.close()
        for fd in (*self._unknown.values(), *(fd for fd in self._told.values() if fd >= 0)):
            os.close(fd)
        self._listeners.clear()
        self._unknown.clear()
        self._told.clear()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _hold_listeners(self) -> None:
        for number, listener in self._listeners.items():
            self._hold(number, listener.fileno())
        for number, fd in self._unknown.items():  # for that version, when it is back
            self._hold(number, fd)

    def _hold(self, number: int, fd: int) -> None:
        self._helper.send(relay_protocol.HOLD, protocol.pack_numbers(number), [fd])

    def _take_frame(self, frame: protocol.Frame) -> None:
        numbers = protocol.unpack_numbers(frame.body)
        match frame.kind, numbers:
            case relay_protocol.FULL, (full, *_):
                self._full = bool(full)
            case relay_protocol.PUMPED, (instance, kind, done, *_):
                settle(self._pumping.get((instance, kind)), bool(done))
            case ((relay_protocol.KEPT | relay_protocol.HELD | relay_protocol.TAKEN), _):
                self._take_held(frame)

    def _take_earlier(self, earlier: EarlierHelper, frame: protocol.Frame) -> None:
        if frame.kind != relay_protocol.STANDING:
            self._take_held(frame)
        elif frame.fds:
            (number,) = protocol.first_numbers(frame.body, 1)
            self._tell(relay_protocol.STAND, protocol.pack_numbers(number), frame.fds)

    def _lose_earlier(self, earlier: EarlierHelper) -> None:
        super()._lose_earlier(earlier)
        fail(self._taken, Unavailable("the relay of another build died"))

    def _take_held(self, frame: protocol.Frame) -> None:
        """Take what a relay holds for us. What is held by two is the same."""
        if frame.kind == relay_protocol.TAKEN:
            settle(self._taken, None)
            return
        if frame.kind not in (relay_protocol.KEPT, relay_protocol.HELD):
            return
        (number,) = protocol.first_numbers(frame.body, 1)
        if frame.kind == relay_protocol.KEPT:
            if self._told.get(number, -1) < 0:
                self._told[number] = frame.fds.pop() if frame.fds else -1
        elif frame.lost:
            fail(self._taken, OutOfDescriptors("no descriptor is left: raise the open-file limit"))
        elif not frame.fds:
            fail(self._taken, HelperFailed(f"a relay sent no descriptor of what it holds as number {number}"))
        elif number == relay_protocol.JOURNAL:
            if self._journal is None:
                self._journal = Journal(frame.fds.pop())
        elif number not in relay_protocol.LISTENERS:
            if number not in self._unknown:
                self._unknown[number] = frame.fds.pop()
        elif number not in self._listeners:
            self._listeners[number] = socket.socket(fileno=frame.fds[0])  # raises where it is no socket
            del frame.fds[0]

    def _pending(self) -> Iterator[asyncio.Future[Any] | None]:
        yield self._taken
        yield from self._pumping.values()

    def _forget(self) -> None:
        self._full = False
