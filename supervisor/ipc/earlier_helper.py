"""A relay or a logger that another build left: it keeps what it has, and goes when that has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sandbox_api.errors import Unavailable
from workers import protocol, relay_protocol

from ..host.futures import settle
from .channel import HelperChannel, HelperFailed

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
"""Seconds that a helper may take to answer; one that is stopped or stuck is killed."""


class EarlierHelper:
    """A connection to one."""

    def __init__(
        self,
        name: str,
        path: str,
        on_frame: Callable[[EarlierHelper, protocol.Frame], None],
        on_lost: Callable[[EarlierHelper], None],
    ) -> None:
        """``on_frame`` is given all that is no greeting; ``on_lost`` is called where it has gone, or died."""
        self._name = name
        self._helper = HelperChannel(name, path, self._frame, self._lost)
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._welcome: asyncio.Future[Sequence[int]] | None = None

    @property
    def pid(self) -> int:
        """Its pid; 0 where it has gone."""
        return self._helper.peer

    async def join(self) -> bool:
        """Join it; false where there is none. Raises ``HelperFailed`` where it does not speak what we do."""
        if not self._helper.join():
            return False
        self._welcome = asyncio.get_running_loop().create_future()
        try:
            self.send(relay_protocol.HELLO, *relay_protocol.VERSIONS)
            async with asyncio.timeout(ANSWER_SECONDS):
                welcome = await self._welcome
        except TimeoutError:
            log.error("a %s of another build does not answer: it is killed", self._name)
            self._helper.kill()
            return False
        except Unavailable:
            if self._helper.answers():
                raise HelperFailed(self._refusal()) from None
            return False
        lowest, highest = (*welcome[2:4], 0, 0)[:2]
        if lowest > relay_protocol.HIGHEST_KEEPING or highest < relay_protocol.LOWEST_KEEPING:
            self.close()
            raise HelperFailed(self._refusal())
        return True

    def _refusal(self) -> str:
        return f"a {self._name} is running that this version cannot join: drain it by the version that started it first"

    def send(self, kind: int, *numbers: int) -> None:
        """Send a row of numbers. Raises ``Unavailable``."""
        self._helper.send(kind, protocol.pack_numbers(*numbers))

    def tell(self, kind: int, *numbers: int) -> None:
        """Send a row of numbers, if it is there still."""
        if self._helper.connected:
            self.send(kind, *numbers)

    def close(self) -> None:
        """Disconnect; it keeps running."""
        self._helper.close()

    def _frame(self, frame: protocol.Frame) -> None:
        try:
            if frame.kind != relay_protocol.WELCOME:
                self._on_frame(self, frame)
            else:
                settle(self._welcome, protocol.unpack_numbers(frame.body))
        finally:
            frame.close()

    def _lost(self) -> None:
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(Unavailable(f"the {self._name} of another build hung up"))
            return
        self._on_lost(self)
