"""The supervisor's side of the relay: guests' inputs and terminals, and clients' connections, outlive us in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sandbox_api.errors import Unavailable
from workers import protocol

from .board import Board
from .helper import Helper
from .streams import Pump


@dataclass(slots=True)
class Kept:
    """A client's connection that outlived a supervisor. ``fd`` is the holder's."""

    key: int
    fd: int
    note: bytes = b""
    """What was noted as pending."""
    calls: list[tuple[int, str]] = field(default_factory=list)
    """Streams and methods that were under way."""


class Relay:
    """Hands pumps and connections to the relay process."""

    def __init__(self, path: str) -> None:
        self._helper = Helper("relay", path, self._frame, self._lost)
        self._connecting = asyncio.Lock()
        self._board: Board | None = None
        self._keys = 0  # numbers above this were never given to a connection,
        self._free: list[int] = []  # and these are given to none any more
        self._kept: list[Kept] = []
        self._taken: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int:
        """Of the relay process, where we started it."""
        return self._helper.pid

    async def ready(self) -> None:
        """Join the relay, or start it. Raises ``HelperFailed``."""
        async with self._connecting:
            if not self._helper.connected:
                await self._helper.connect()
                if self._board is not None:  # the one before died, and its board with it
                    self._helper.send(protocol.BOARD, b"", [self._board.fd])

    def pump(self, instance: int, pump: Pump) -> None:
        """Move bytes for an instance until one side ends. The descriptors stay the caller's."""
        self._helper.send(protocol.PUMP, protocol.pack_numbers(instance, pump.kind), [pump.source, pump.sink])

    async def close_input(self, instance: int) -> None:
        """End an instance's input after what is in its FIFO already."""
        await self.ready()
        self._helper.send(protocol.CLOSE, protocol.pack_numbers(instance))

    async def resize(self, instance: int, width: int, height: int) -> None:
        """Set the size of an instance's terminal, in characters."""
        await self.ready()
        self._helper.send(protocol.RESIZE, protocol.pack_numbers(instance, width, height))

    async def take(self) -> list[Kept]:
        """The connections that the supervisor before us left. They stay kept, too, until they are dropped."""
        await self.ready()
        self._taken = asyncio.get_running_loop().create_future()
        self._helper.send(protocol.TAKE, b"")
        await self._taken
        kept, self._kept = self._kept, []
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

    def end(self) -> None:
        """Tell the relay, if there is one, to go."""
        if self._helper.connected:
            self._helper.send(protocol.END, b"")

    def close(self) -> None:
        """Let go of the relay, which goes on while it has something to move."""
        self._helper.close()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _tell(self, kind: int, body: bytes, fds: list[int]) -> None:
        try:
            self._helper.send(kind, body, fds)
        except (Unavailable, OSError):  # then it keeps nothing: clients will see the connection close if we die
            pass

    def _frame(self, frame: protocol.Frame) -> None:
        if frame.kind == protocol.KEPT and len(frame.fds) == 1:
            (key,) = protocol.unpack_numbers(frame.body)
            self._kept.append(Kept(key, frame.fds.pop()))
        elif frame.kind == protocol.NOTED and self._kept:  # about the last that came
            self._kept[-1].note += frame.body
        elif frame.kind == protocol.BOARD and len(frame.fds) == 1 and self._board is None:
            self._board = Board(frame.fds.pop())
        elif frame.kind == protocol.TAKEN and self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        frame.close()

    def _lost(self) -> None:
        if self._taken is not None and not self._taken.done():
            self._taken.set_exception(Unavailable("the relay died: try again"))
