"""The supervisor's side of the relay: guests' inputs and terminals, and clients' connections, outlive us in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox_api.errors import ResourceExhausted, Unavailable
from workers import protocol

from ..oci.streams import Pump
from .board import Board
from .channel import HelperChannel, HelperFailed

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
"""How long a relay may take to answer."""
RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Kept:
    """A client's connection that outlived a supervisor. ``fd`` is the holder's."""

    key: int
    fd: int
    """-1 where it found no room in this process (open-file limit)."""
    note: bytes = b""
    """What was noted as pending."""
    calls: list[tuple[int, str]] = field(default_factory=list)
    """Streams and methods that were under way."""


class RelayClient:
    """Hands pumps and connections to the relay process."""

    def __init__(self, path: str) -> None:
        self._helper = HelperChannel("relay", path, self._frame, self._lost)
        self._connecting = asyncio.Lock()
        self._board: Board | None = None
        self._keys = 0  # numbers above this were never given to a connection,
        self._free: list[int] = []  # and these are given to none any more
        self._kept: list[Kept] = []
        self._full = False
        self._taken: asyncio.Future[None] | None = None
        self._pumping: dict[tuple[int, int], asyncio.Future[bool]] = {}  # by instance and kind of pump
        self._ending = False
        self._returning: asyncio.Task[None] | None = None
        self._on_return: Callable[[], None] | None = None

    @property
    def pid(self) -> int:
        """Of the relay process, where we started it."""
        return self._helper.pid

    async def ready(self) -> None:
        """Join the relay, or start it. Raises ``Unavailable`` where that cannot be."""
        async with self._connecting:
            if not self._helper.connected:
                try:
                    await self._helper.connect()
                    if self._board is not None:  # the one before died, and its board with it
                        self._helper.send(protocol.BOARD, b"", [self._board.fd])
                except (HelperFailed, OSError, TimeoutError) as error:
                    raise Unavailable(f"no relay: {error}: try again") from None

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
            self._helper.send(protocol.PUMP, protocol.pack_numbers(*key), [pump.source, pump.sink])
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
        self._helper.send(protocol.CLOSE, protocol.pack_numbers(instance))

    async def resize(self, instance: int, width: int, height: int) -> None:
        """Set the size of an instance's terminal, in characters."""
        await self.ready()
        self._helper.send(protocol.RESIZE, protocol.pack_numbers(instance, width, height))

    async def take(self, on_return: Callable[[], None]) -> list[Kept]:
        """The connections that the supervisor before us left. They stay kept, too, until they are dropped.

        ``on_return`` is called whenever a new relay has taken the place of one that was lost: it keeps no connection,
        and the numbers given until then are void.
        """
        self._on_return = on_return
        await self.ready()
        self._taken = asyncio.get_running_loop().create_future()
        self._helper.send(protocol.TAKE, b"")
        await self._taken
        told, self._kept = self._kept, []
        kept = [each for each in told if each.fd >= 0]
        if len(kept) < len(told):
            log.error("%d clients' connections are given up: no more descriptors for them", len(told) - len(kept))
            for each in told:
                if each.fd < 0:
                    self._tell(protocol.DROP, protocol.pack_numbers(each.key), [])
        if self._board is None:
            self._board = Board()
            self._helper.send(protocol.BOARD, b"", [self._board.fd])
        for each in kept:
            each.calls = self._board.calls(each.key)
            self._board.clear(each.key)
        self._keys = max((each.key for each in kept), default=0)
        self._free.extend(set(range(1, self._keys)).difference(each.key for each in kept))
        return kept

    def keep(self, fd: int) -> int:
        """Keep a connection open beyond our death; the number for it. The descriptor stays the caller's."""
        if self._free:
            key = self._free.pop()
        else:
            key = self._keys = self._keys + 1
        if self._board is not None:
            self._board.clear(key)
        self._tell(protocol.KEEP, protocol.pack_numbers(key), [fd])
        return key

    def note(self, key: int, stream: int, note: bytes) -> None:
        """What is pending on a stream of a kept connection now."""
        self._tell(protocol.NOTE, protocol.pack_numbers(key, stream) + note, [])

    def begin(self, key: int, stream: int, method: str) -> int:
        """A call is under way on a kept connection: the place to ``end`` it at, or 0 where it has to be noted."""
        return self._board.begin(key, stream, method) if self._board is not None else 0

    def end_call(self, place: int) -> None:
        """The call at this place has been answered."""
        if self._board is not None:
            self._board.end(place)

    def drop(self, key: int) -> None:
        """A kept connection is closed."""
        self._tell(protocol.DROP, protocol.pack_numbers(key), [])
        self._free.append(key)

    def shut_down(self) -> None:
        """Tell the relay, if there is one, to go."""
        self._ending = True
        if self._helper.connected:
            self._helper.send(protocol.END, b"")

    def close(self) -> None:
        """Let go of the relay, which goes on while it has something to move."""
        if self._returning is not None:
            self._returning.cancel()
        self._helper.close()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _tell(self, kind: int, body: bytes, fds: list[int]) -> None:
        try:
            self._helper.send(kind, body, fds)
        except (Unavailable, OSError):  # it will be told when it is there again
            pass

    def _frame(self, frame: protocol.Frame) -> None:
        if frame.kind == protocol.KEPT and (frame.lost or len(frame.fds) == 1):
            (key,) = protocol.unpack_numbers(frame.body)
            self._kept.append(Kept(key, -1 if frame.lost else frame.fds.pop()))
        elif frame.kind == protocol.NOTED and self._kept:  # about the last that came
            self._kept[-1].note += frame.body
        elif frame.kind == protocol.BOARD and frame.lost and self._taken is not None and not self._taken.done():
            self._taken.set_exception(ResourceExhausted("no descriptor is left: raise the open-file limit"))
        elif frame.kind == protocol.BOARD and len(frame.fds) == 1 and self._board is None:
            self._board = Board(frame.fds.pop())
        elif frame.kind == protocol.FULL:
            self._full = any(protocol.unpack_numbers(frame.body))
        elif frame.kind == protocol.TAKEN and self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        elif frame.kind == protocol.PUMPED:
            instance, kind, done = protocol.unpack_numbers(frame.body)
            answer = self._pumping.get((instance, kind))
            if answer is not None and not answer.done():
                answer.set_result(bool(done))
        frame.close()

    def _lost(self) -> None:
        self._full = False
        if self._ending:
            return
        log.error("the relay hung up" if self._helper.answers() else "the relay died: inputs and terminals end with it")
        error = Unavailable("the relay died: try again")
        for answer in (self._taken, *self._pumping.values()):
            if answer is not None and not answer.done():
                answer.set_exception(error)
        if self._returning is None or self._returning.done():
            self._returning = asyncio.ensure_future(self._return())

    async def _return(self) -> None:
        """Have a relay again: the connections that the lost one kept are to outlive us even so."""
        while True:
            try:
                await self.ready()
            except Unavailable as error:
                log.error("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._tell(protocol.DROP, protocol.pack_numbers(protocol.ALL), [])  # it may only have hung up
            self._keys = 0
            self._free.clear()
            if self._on_return is not None:
                self._on_return()
            if self._helper.connected:
                log.info("a relay is up")
                return
