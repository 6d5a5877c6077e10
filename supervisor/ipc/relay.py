"""The supervisor's side of the relay: guests' inputs and terminals, and clients' connections, outlive us in it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TypeVar

from sandbox_api.errors import ResourceExhausted, Unavailable
from workers import protocol, relay_protocol

from ..oci.streams import Pump
from .channel import HelperChannel, HelperFailed
from .journal import Journal, Pending

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
"""How long a relay may take to answer."""
RETRY_SECONDS = 1.0

_T = TypeVar("_T")


@dataclass(slots=True)
class Kept:
    """A client's connection that outlived a supervisor, and what is pending on it. ``fd`` is the holder's."""

    key: int
    fd: int
    pending: list[Pending]


class RelayClient:
    """Hands pumps and connections to the relay process."""

    def __init__(self, path: str) -> None:
        self._helper = HelperChannel("relay", path, self._frame, self._lost)
        self._connecting = asyncio.Lock()
        self._journal: Journal | None = None
        self._keys = 0  # numbers above this were never given to a connection,
        self._free: list[int] = []  # and these are given to none any more
        self._connections: dict[int, int] = {}  # kept connections' descriptors, by their numbers
        self._told: list[tuple[int, int]] = []  # numbers and descriptors of those that a relay keeps, as it tells them
        self._full = False
        self._welcome: asyncio.Future[tuple[int, ...]] | None = None
        self._taken: asyncio.Future[None] | None = None
        self._pumping: dict[tuple[int, int], asyncio.Future[bool]] = {}  # by instance and kind of pump
        self._ending = False
        self._returning: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The relay process, where we started it."""
        return self._helper.pid

    async def ready(self) -> None:
        """Join the relay, or start it. Raises ``Unavailable`` where that cannot be."""
        async with self._connecting:
            if not self._helper.connected:
                try:
                    await self._helper.connect()
                    await self._greet()
                    self._hand_over()
                except (HelperFailed, OSError, TimeoutError) as error:
                    self._helper.close()
                    raise Unavailable(f"no relay: {error}: try again") from None

    async def _greet(self) -> None:
        """Agree on a version. A relay that speaks none of ours is left to what it holds, and another one started."""
        for _ in range(2):
            self._welcome = asyncio.get_running_loop().create_future()
            ours = relay_protocol.LOWEST_VERSION, relay_protocol.HIGHEST_VERSION
            self._helper.send(relay_protocol.HELLO, protocol.pack_numbers(*ours))
            async with asyncio.timeout(ANSWER_SECONDS):
                lowest, highest = await self._welcome
            if lowest <= ours[1] and highest >= ours[0]:
                return
            log.error(
                "a relay of versions %d to %d is running, and this sandboxer speaks %d to %d: it goes on with the "
                "streams that it has, and a new one takes its place",
                *(lowest, highest, *ours),
            )
            await self._helper.replace()
        raise HelperFailed("the relay speaks another version")

    def _hand_over(self) -> None:
        """The relay before died, or hung up: the connections that it kept are to outlive us even so."""
        if self._journal is None:
            return
        self._helper.send(relay_protocol.DROP, protocol.pack_numbers(relay_protocol.ALL))
        self._hold(relay_protocol.JOURNAL, self._journal.fd)
        for key, fd in self._connections.items():
            self._helper.send(relay_protocol.KEEP, protocol.pack_numbers(key), [fd])

    async def pump(self, instance: int, pump: Pump) -> None:
        """Move bytes for an instance until one side ends. The descriptors stay the caller's.

        Raises ``ResourceExhausted`` where the relay has no descriptors for it, ``Unavailable`` where it is away.
        """
        await self.ready()
        if self._full:
            raise ResourceExhausted("too many standard inputs and terminals are open: raise the open-file limit")
        key = instance, pump.kind
        answer = self._pumping[key] = asyncio.get_running_loop().create_future()
        try:
            self._helper.send(relay_protocol.PUMP, protocol.pack_numbers(*key), [pump.source, pump.sink])
            async with asyncio.timeout(ANSWER_SECONDS):
                if not await answer:
                    raise ResourceExhausted("the relay has too many open files: its limit is reached")
        except TimeoutError:
            raise Unavailable("the relay does not answer: try again") from None
        finally:
            del self._pumping[key]

    async def close_input(self, instance: int) -> None:
        """End an instance's input after what is in its FIFO already."""
        await self.ready()
        self._helper.send(relay_protocol.CLOSE, protocol.pack_numbers(instance))

    async def resize(self, instance: int, width: int, height: int) -> None:
        """Set the size of an instance's terminal, in characters."""
        await self.ready()
        self._helper.send(relay_protocol.RESIZE, protocol.pack_numbers(instance, width, height))

    async def take(self) -> list[Kept]:
        """Take over the connections and the journal of the supervisor before us.

        The connections stay kept until they are dropped. Raises ``ResourceExhausted``, ``Unavailable``.
        """
        await self.ready()
        self._taken = asyncio.get_running_loop().create_future()
        self._helper.send(relay_protocol.TAKE, b"")
        await self._taken
        if self._journal is None:
            self._journal = Journal()
            self._hold(relay_protocol.JOURNAL, self._journal.fd)
        pending = self._journal.pending()
        told, self._told = self._told, []
        kept = [Kept(key, fd, pending.pop(key, [])) for key, fd in told if fd >= 0]
        if len(kept) < len(told):
            log.error("%d clients' connections are given up: no more descriptors for them", len(told) - len(kept))
            for key, fd in told:
                if fd < 0:
                    self._tell(relay_protocol.DROP, protocol.pack_numbers(key), [])
        for calls in pending.values():  # their clients are gone
            for call in calls:
                self._journal.end(call.place)
        self._connections = {each.key: each.fd for each in kept}
        self._keys = max(self._connections, default=0)
        self._free.extend(set(range(1, self._keys)).difference(self._connections))
        return kept

    def keep(self, fd: int) -> int:
        """Keep a connection open beyond our death; the number for it. The descriptor stays the caller's, who drops
        the connection before closing it."""
        if self._free:
            key = self._free.pop()
        else:
            key = self._keys = self._keys + 1
        self._connections[key] = fd
        self._tell(relay_protocol.KEEP, protocol.pack_numbers(key), [fd])
        return key

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

    def shut_down(self) -> None:
        """Tell the relay, if there is one, to go."""
        self._ending = True
        if self._helper.connected:
            self._helper.send(relay_protocol.END, b"")

    def close(self) -> None:
        """Disconnect; the relay keeps running while it has something to hold."""
        if self._returning is not None:
            self._returning.cancel()
        self._helper.close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _hold(self, number: int, fd: int) -> None:
        self._helper.send(relay_protocol.HOLD, protocol.pack_numbers(number), [fd])

    def _tell(self, kind: int, body: bytes, fds: list[int]) -> None:
        try:
            self._helper.send(kind, body, fds)
        except (Unavailable, OSError):  # it will be told when it is there again
            pass

    def _frame(self, frame: protocol.Frame) -> None:
        """Take a message of the relay's."""
        numbers = protocol.unpack_numbers(frame.body)
        match frame.kind, numbers:
            case relay_protocol.WELCOME, _:
                _settle(self._welcome, numbers)
            case relay_protocol.FULL, (full,):
                self._full = bool(full)
            case relay_protocol.PUMPED, (instance, kind, done):
                _settle(self._pumping.get((instance, kind)), bool(done))
            case relay_protocol.KEPT, (key,):
                self._told.append((key, -1 if frame.lost else frame.fds.pop()))
            case relay_protocol.HELD, (number,):
                self._take_held(number, frame)
            case relay_protocol.TAKEN, _:
                _settle(self._taken, None)
        frame.close()

    def _take_held(self, number: int, frame: protocol.Frame) -> None:
        if frame.lost:
            if self._taken is not None and not self._taken.done():
                self._taken.set_exception(ResourceExhausted("no descriptor is left: raise the open-file limit"))
        elif number == relay_protocol.JOURNAL and self._journal is None:
            self._journal = Journal(frame.fds.pop())

    def _lost(self) -> None:
        self._full = False
        if self._ending:
            return
        log.error("the relay hung up" if self._helper.answers() else "the relay died: inputs and terminals end with it")
        error = Unavailable("the relay died: try again")
        for answer in (self._welcome, self._taken, *self._pumping.values()):
            if answer is not None and not answer.done():
                answer.set_exception(error)
        if self._returning is None or self._returning.done():
            self._returning = asyncio.ensure_future(self._return())

    async def _return(self) -> None:
        """Have a relay again, whether or not a start needs one."""
        while True:
            try:
                await self.ready()
            except Unavailable as error:
                log.error("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self._helper.connected:
                log.info("a relay is up")
                return


def _settle(future: asyncio.Future[_T] | None, value: _T) -> None:
    if future is not None and not future.done():
        future.set_result(value)
