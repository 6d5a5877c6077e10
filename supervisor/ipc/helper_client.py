"""The common part of the relay's and the logger's clients: agree on a version, and replace a helper that dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from sandbox_api.errors import Unavailable
from workers import protocol, relay_protocol

from ..host.counters import Counters
from ..host.futures import fail, settle
from .channel import HelperChannel, HelperFailed, others
from .earlier_helper import ANSWER_SECONDS, EarlierHelper

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class HelperClient:
    """A connection to a helper that is joined where it runs, and started where it does not."""

    def __init__(self, name: str, path: str, counters: Counters | None = None) -> None:
        self._counters = counters or Counters()
        self._name = name
        self._path = path
        self._earlier: list[EarlierHelper] = []
        self._helper = HelperChannel(name, path, self._frame, self._lost)
        self._connecting = asyncio.Lock()
        self._welcome: asyncio.Future[tuple[int, ...]] | None = None
        self._ending = False
        self._returning: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The helper process, where we started it."""
        return self._helper.pid

    @property
    def pids(self) -> set[int]:
        """Pids of the helper, also while it is being started, and of those of other builds.

        Of one that we did not start, too: it is our child where this process has restarted itself.
        """
        return {self._helper.pid, self._helper.peer, *(earlier.pid for earlier in self._earlier)}

    @property
    def peer(self) -> int:
        """Pid of the helper, also of one that we did not start; 0 where there is none."""
        return self._helper.peer

    async def ready(self) -> None:
        """Join the helper, or start it. Raises ``Unavailable``."""
        async with self._connecting:
            if not self._helper.connected:
                try:
                    await self._connect()
                    self._hand_over()
                except (HelperFailed, OSError, TimeoutError) as error:
                    self._helper.close()
                    raise Unavailable(f"no {self._name}: {error}: try again") from None

    def shut_down(self) -> None:
        """Tell the helper, if there is one, to end; those of other builds, too."""
        self._ending = True
        for earlier in self._earlier:
            earlier.tell(relay_protocol.END)
        if self._helper.connected:
            self._helper.send(relay_protocol.END, b"")

    def close(self) -> None:
        """Disconnect; the helper keeps running while it has something to do."""
        self._ending = True
        if self._returning is not None:
            self._returning.cancel()
        for earlier in self._earlier:
            earlier.close()
        self._helper.close()

    async def _connect(self) -> None:
        await self._helper.connect()
        try:
            await self._greet()
        except TimeoutError:
            log.error("the %s does not answer within %g s: it is killed", self._name, ANSWER_SECONDS)
            self._helper.kill()
            await self._helper.connect()
            await self._greet()

    async def _greet(self) -> None:
        """Say which versions we speak, and hear which it does: ours, since it is of our build.

        The answer comes after all that was said before has been done.
        """
        self._welcome = asyncio.get_running_loop().create_future()
        self._helper.send(relay_protocol.HELLO, protocol.pack_numbers(*relay_protocol.VERSIONS))
        async with asyncio.timeout(ANSWER_SECONDS):
            lowest, highest, *_ = await self._welcome
        if lowest > relay_protocol.HIGHEST_VERSION or highest < relay_protocol.LOWEST_VERSION:
            raise HelperFailed(f"the {self._name} of our own build speaks versions {lowest} to {highest}")

    async def _join_earlier(self) -> list[EarlierHelper]:
        """Join those that other builds left. Raises ``HelperFailed``."""
        joined = []
        for path in others(self._path):
            earlier = EarlierHelper(self._name, path, self._take_earlier, self._lose_earlier)
            if await earlier.join():
                joined.append(earlier)
                log.info("a %s of another build, pid %d, is there: it keeps what it has", self._name, earlier.pid)
        self._earlier += joined
        return joined

    def _take_earlier(self, earlier: EarlierHelper, frame: protocol.Frame) -> None:
        """Take a message of a helper that another build left."""
        raise NotImplementedError

    def _lose_earlier(self, earlier: EarlierHelper) -> None:
        """A helper that another build left has gone, or died."""
        if earlier in self._earlier:
            self._earlier.remove(earlier)
            log.info("a %s of another build has gone", self._name)

    def _hand_over(self) -> None:
        """Send a helper that has just been joined what an earlier one had from us."""
        raise NotImplementedError

    def _take_frame(self, frame: protocol.Frame) -> None:
        """Take a message that is not a greeting."""
        raise NotImplementedError

    def _pending(self) -> Iterator[asyncio.Future[Any] | None]:
        """Answers that will not come from a helper that died."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Drop what a helper that died had said, and save what it had in its hands."""

    def _tell(self, kind: int, body: bytes, fds: list[int]) -> None:
        try:
            self._helper.send(kind, body, fds)
        except (Unavailable, OSError):  # it will be told when it is there again
            pass

    def _frame(self, frame: protocol.Frame) -> None:
        try:
            if frame.kind == relay_protocol.WELCOME:
                settle(self._welcome, protocol.unpack_numbers(frame.body))
            else:
                self._take_frame(frame)
        finally:
            frame.close()

    def _lost(self) -> None:
        self._forget()
        if self._ending:
            return
        self._counters.helper_deaths[self._name] += 1
        hung_up = self._helper.answers()
        log.error("the %s hung up" if hung_up else "the %s died: what it had in its hands is lost", self._name)
        error = Unavailable(f"the {self._name} died: try again")
        for answer in (self._welcome, *self._pending()):
            fail(answer, error)
        if self._returning is None or self._returning.done():
            self._returning = asyncio.ensure_future(self._return())

    async def _return(self) -> None:
        """Have a helper again, whether or not a call needs one."""
        while True:
            try:
                await self.ready()
            except Unavailable as error:
                log.error("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self._helper.connected:
                log.info("a %s is up", self._name)
                return
