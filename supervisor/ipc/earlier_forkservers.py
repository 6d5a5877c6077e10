"""The forkservers that other builds left: each keeps its instances until they have ended, and then goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workers.greeting import FORKSERVER, Hello

from .channel import HelperFailed, others
from .forkserver_connection import ForkserverConnection
from .inventory import Ended

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Earlier:
    connection: ForkserverConnection
    has: set[int] = field(default_factory=set)
    """Instances that run, or whose exit it was not told to forget."""
    rejoining: asyncio.Task[None] | None = None


class EarlierForkservers:
    """Joins them, passes on what they say, and finds the one that has an instance."""

    def __init__(self, path: str, on_exits: Callable[[list[Ended]], None]) -> None:
        """``path`` is our own forkserver's socket."""
        self._path = path
        self._on_exits = on_exits
        self._all: list[_Earlier] = []
        self.on_lost: Callable[[set[int]], None] = lambda instances: None
        """Given the instances of one that died."""

    @property
    def pids(self) -> set[int]:
        """Their pids."""
        return {each.connection.helper.peer for each in self._all}

    def __len__(self) -> int:
        return len(self._all)

    def has(self, instance: int) -> bool:
        """Whether one of them has an instance."""
        return self.of(instance) is not None

    def of(self, instance: int) -> ForkserverConnection | None:
        """The one that has an instance, if one has."""
        return next((each.connection for each in self._all if instance in each.has), None)

    async def join(self) -> tuple[dict[int, int], list[Ended]]:
        """Join all that there are; what they run, and what has ended. Raises ``HelperFailed``."""
        running: dict[int, int] = {}
        ended: list[Ended] = []
        self.close()
        for path in others(self._path):
            earlier = self._new(path)
            inventory = await earlier.connection.join(Hello(FORKSERVER, keep=True))
            if inventory is None:
                continue
            earlier.has = {*inventory.running, *(each.instance for each in inventory.ended)}
            running |= inventory.running
            ended += inventory.ended
            self._all.append(earlier)
            pid = earlier.connection.helper.peer
            log.info("a forkserver of another build, pid %d, keeps %d instances", pid, len(inventory.running))
            self._end_idle(earlier)
        return running, ended

    def acknowledge(self, instances: Sequence[int]) -> list[int]:
        """Let them forget these exits; those that are none of theirs."""
        left = set(instances)
        for earlier in list(self._all):
            theirs = earlier.has & left
            if theirs:
                earlier.connection.acknowledge(list(theirs))
                earlier.has -= theirs
                left -= theirs
                self._end_idle(earlier)
        return [instance for instance in instances if instance in left]

    def shut_down(self) -> None:
        """Tell all to kill what runs and go."""
        for earlier in self._all:
            earlier.connection.shut_down()

    def close(self) -> None:
        """Disconnect; they keep running."""
        for earlier in self._all:
            if earlier.rejoining is not None:
                earlier.rejoining.cancel()
            earlier.connection.close()
        self._all.clear()

    def _new(self, path: str) -> _Earlier:
        def lost() -> None:
            self._lost(earlier)

        earlier = _Earlier(ForkserverConnection(path, path, self._on_exits, lost))
        return earlier

    def _end_idle(self, earlier: _Earlier) -> None:
        """Have one go that has nothing left, unless it was told already."""
        if not earlier.has and earlier in self._all:
            pid = earlier.connection.helper.peer
            log.info("the forkserver of another build, pid %d, has nothing left: it ends", pid)
            self._all.remove(earlier)
            earlier.connection.shut_down()
            earlier.connection.close()

    def _lost(self, earlier: _Earlier) -> None:
        if earlier not in self._all or earlier.rejoining is not None:
            return
        earlier.rejoining = asyncio.ensure_future(self._rejoin(earlier))

    async def _rejoin(self, earlier: _Earlier) -> None:
        """Join one again that hung up; watch what is left of one that died."""
        try:
            inventory = await earlier.connection.join(Hello(FORKSERVER, keep=True))
        except HelperFailed as error:
            log.error("%s", error)
            inventory = None
        before, earlier.rejoining = earlier.has, None
        if inventory is None:
            log.error("a forkserver of another build died")
            self._all.remove(earlier)
            self.on_lost(before)
            return
        earlier.has = {*inventory.running, *(each.instance for each in inventory.ended)}
        self._on_exits(inventory.ended)
        self.on_lost(before - earlier.has)
        self._end_idle(earlier)
