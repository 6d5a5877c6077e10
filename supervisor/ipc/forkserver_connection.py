"""A connection to one forkserver: greeting, signals, exits, acknowledgements.

All that is said here belongs to the messages about what runs, which other versions understand (docs/upgrading.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sandbox_api.errors import Unavailable
from workers import protocol
from workers.greeting import EXIT_NUMBERS, FORKSERVER, KEEPING, Hello, Welcome
from workers.image_protocol import ImageReport

from ..host.futures import fail, settle
from .channel import HelperChannel, HelperFailed
from .inventory import Ended, Inventory, exits_of

log = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
"""Seconds that a forkserver may take to answer; one that is stopped or stuck is replaced."""
ACKNOWLEDGE_SECONDS = 0.02
"""Seconds that acknowledgements of exits gather: each message wakes the forkserver."""


class ForkserverConnection:
    """One forkserver: our own, or one that another build left."""

    def __init__(
        self,
        path: str,
        argument: str,
        on_exits: Callable[[list[Ended]], None],
        on_lost: Callable[[], None],
        on_frame: Callable[[protocol.Frame], None] = lambda frame: None,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_frame`` is given what is not said of what runs. As ``HelperChannel`` for the others.

        ``on_gone`` is called where nothing more comes on a connection: it was lost, or we hung up to join again.
        """
        self.path = path
        self.helper = HelperChannel("forkserver", path, self._frame, self._lost, argument)
        self._on_exits = on_exits
        self._on_lost = on_lost
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._kills: dict[int, asyncio.Future[int]] = {}
        self._serial = 0
        self._acknowledged: list[int] = []
        self._welcome: asyncio.Future[protocol.Frame] | None = None
        self._pong: asyncio.Future[None] | None = None

    async def connect(self, hello: Hello) -> Inventory:
        """Join the forkserver, or start one. Raises ``HelperFailed``."""
        inventory = await self._greet(hello, start=True)
        if inventory is None:
            raise HelperFailed("the forkserver does not answer")
        return inventory

    async def join(self, hello: Hello) -> Inventory | None:
        """Join the forkserver; None where there is none. Raises ``HelperFailed``."""
        return await self._greet(hello, start=False)

    async def _greet(self, hello: Hello, start: bool) -> Inventory | None:
        for _ in range(2):
            self._give_up()
            if start:
                await self.helper.connect()
            elif not self.helper.join():
                return None
            self._welcome = asyncio.get_running_loop().create_future()
            try:
                self.helper.send(protocol.HELLO, hello.encode())
                async with asyncio.timeout(HELLO_SECONDS):
                    return _inventory(await self._welcome, starts=not hello.keep)
            except TimeoutError:
                within = f"within {HELLO_SECONDS:g} s"
                log.error("the forkserver does not answer %s: it is killed; what it ran goes on", within)
                self.helper.kill()
            except Unavailable:  # it ended just now
                if start:
                    raise
        self._give_up()
        return None

    async def ping(self) -> None:
        """Return when the forkserver has answered. Raises ``Unavailable`` where there is none."""
        if self._pong is None or self._pong.done():
            self._pong = asyncio.get_running_loop().create_future()
            self.helper.send(protocol.PING, b"")
        await asyncio.shield(self._pong)

    async def kill(self, instance: int, number: int) -> int:
        """Send a signal to an instance: 0, or errno; ESRCH where it has ended, or is not this forkserver's.

        Raises ``Unavailable`` where there is no forkserver.
        """
        serial = self._serial = self._serial + 1
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._kills[serial] = answer
        try:
            self.kill_unheard(instance, number, serial)
            return await answer
        finally:
            del self._kills[serial]

    def kill_unheard(self, instance: int, number: int, serial: int = 0) -> None:
        """Send a signal to an instance, and do not wait for what comes of it. Raises ``Unavailable``."""
        self.helper.send(protocol.KILL, protocol.pack_numbers(serial, instance, number))

    def acknowledge(self, instances: Sequence[int]) -> None:
        """Let the forkserver forget these exits, which are on record. Acknowledgements are sent soon, many at once."""
        if not self._acknowledged:
            asyncio.get_running_loop().call_later(ACKNOWLEDGE_SECONDS, self._tell_acknowledged)
        self._acknowledged += instances

    def _tell_acknowledged(self) -> None:
        instances, self._acknowledged = self._acknowledged, []
        try:
            self.helper.send(protocol.ACK, protocol.pack_numbers(*instances))
        except Unavailable:  # then it has no exits to forget
            pass

    def shut_down(self) -> None:
        """Tell the forkserver to kill what runs and go."""
        if self.helper.connected:
            if self._acknowledged:
                self._tell_acknowledged()
            self.helper.send(protocol.END, b"")

    def close(self) -> None:
        """Disconnect; the forkserver keeps running."""
        if self._acknowledged:
            self._tell_acknowledged()
        self.helper.close()

    def _frame(self, frame: protocol.Frame) -> None:
        if frame.kind == protocol.EXITED:
            self._on_exits([Ended(*row) for row in protocol.unpack_rows(frame.body, EXIT_NUMBERS)])
        elif frame.kind == protocol.KILLED:
            serial, error = protocol.first_numbers(frame.body, 2)
            settle(self._kills.get(serial), error)
        elif frame.kind == protocol.PONG:
            settle(self._pong, None)
        elif frame.kind == protocol.WELCOME:
            settle(self._welcome, frame)
        else:
            self._on_frame(frame)

    def _lost(self) -> None:
        self._give_up()
        self._on_lost()

    def _give_up(self) -> None:
        """Fail what waits for an answer on a connection that is gone."""
        error = Unavailable("the forkserver died: try again")
        if self._pong is not None and not self._pong.done():
            self._pong.set_exception(error)
            self._pong.exception()  # retrieved, where its waiter is gone
        for answer in (self._welcome, *self._kills.values()):
            fail(answer, error)
        self._on_gone()


def _inventory(frame: protocol.Frame, starts: bool) -> Inventory:
    """What a forkserver has, by its WELCOME. Raises ``HelperFailed`` where it cannot be understood."""
    try:
        welcome = Welcome.decode(frame.body)
    except protocol.ProtocolError as error:
        raise HelperFailed(f"the forkserver answers what is no welcome ({error}): drain it first") from None
    if welcome.keeping is None or not KEEPING.common(welcome.keeping):
        raise HelperFailed(
            f"a forkserver of protocol {welcome.versions} is running, and this is for {FORKSERVER}: "
            "drain it by the version that started it first"
        )
    if starts and not FORKSERVER.common(welcome.versions):  # it is our own build, by its socket's name
        raise HelperFailed(f"a forkserver of our own build speaks protocol {welcome.versions}, not {FORKSERVER}")
    engines = {name.decode(): version.decode() for name, version in welcome.engines.items()}
    running = dict(zip(welcome.running[::2], welcome.running[1::2], strict=True))
    try:
        images = [ImageReport.decode(body) for body in welcome.images] if starts else []
    except protocol.ProtocolError as error:
        raise HelperFailed(f"the forkserver tells of images that are none ({error}): drain it first") from None
    return Inventory(engines, welcome.landlock, welcome.no_empty_root, running, exits_of(welcome.exits), images)
