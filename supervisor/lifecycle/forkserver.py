"""The forkserver's supervision: connect to it, replace one that died, and watch what it ran."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence, Set
from dataclasses import replace

import psutil

from sandbox_api.errors import SandboxerError

from ..aot.cache import CacheUnusable
from ..aot.choice import EngineChoice
from ..host.counters import Counters
from ..ipc.channel import HelperFailed
from ..ipc.forkserver import ForkserverClient
from ..ipc.helper_client import HelperClient
from ..ipc.inventory import Inventory
from ..model.registry import Registry
from .exits import ExitRecorder
from .module_images import ModuleImages
from .orphans import Orphans

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
RENEW_SECONDS = 10.0
"""Seconds that starts may wait for a fresh forkserver."""


class ForkserverManager:
    """Keeps a forkserver connected from ``connect`` to ``close``."""

    def __init__(
        self,
        registry: Registry,
        client: ForkserverClient,
        exits: ExitRecorder,
        helpers: Sequence[HelperClient],
        aot: EngineChoice,
        counters: Counters | None = None,
        images: ModuleImages | None = None,
    ) -> None:
        self.client = client
        self._images = images
        self.orphans = Orphans(registry, client)
        self._registry = registry
        self._exits = exits
        self._helpers = helpers
        self._aot = aot
        self._counters = counters or Counters()
        self._ending = self._renewing = False
        self._reconnecting: asyncio.Task[None] | None = None
        client.earlier.on_lost = self._watch_left

    async def connect(self) -> Inventory:
        """Join the forkserver, or start one. Raises ``HelperFailed``."""
        inventory = await self.client.connect(self._exits.record, self._lost)
        if self._images is not None:
            self._images.joined(inventory.images)
        return inventory

    async def take_over(self) -> Inventory:
        """Connect, and join all forkservers that other builds left; what they all have together.

        Raises ``HelperFailed``.
        """
        inventory = await self.connect()
        running, ended = await self.client.join_earlier()
        return replace(inventory, running=inventory.running | running, ended=inventory.ended + ended)

    async def renew_when_idle(self, seconds: float) -> None:
        """Start a fresh forkserver whenever nothing has run for so long: all workers of one have one memory layout.

        Starts that come meanwhile wait for it.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds / 10)
            if self.client.last_start and loop.time() - self.client.last_start >= seconds and not self._runs_anything():
                with self.client.held_back():
                    await self._renew()

    def shut_down(self) -> None:
        """End the forkserver, and all that it runs."""
        self._ending = True
        self.client.shut_down()

    def close(self) -> None:
        """Disconnect; the forkserver keeps running."""
        self._ending = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        self.client.close()

    def _runs_anything(self) -> bool:
        alive = any(container.alive() for container in self._registry.containers.values())
        return alive or self.client.starting_any

    async def _renew(self) -> None:
        self._renewing, self.client.last_start = True, 0.0
        self.client.shut_down()
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                while self._renewing:  # until ``_lost``
                    await asyncio.sleep(0.01)
                if self._reconnecting is not None:
                    await asyncio.shield(self._reconnecting)
        except TimeoutError:
            self._renewing = False
            log.warning("the forkserver was not renewed within %g s", RENEW_SECONDS)

    def _lost(self) -> None:
        """Watch what a dead forkserver ran: our children if we started it, or else init's. Then reconnect."""
        if self._ending:
            return
        if self._renewing:
            self._renewing = False
            self._reconnect_soon()
            return
        self._counters.helper_deaths["forkserver"] += 1
        # It only hung up on us, and still watches its own; or it is about to die: its listening socket may close last.
        if self.client.answers():
            log.error("the forkserver hung up")
            self._reconnect_soon()
            return
        log.error("the forkserver died")
        if self._images is not None:
            self._images.joined([])
        self._watch_others(frozenset())
        alive = {process.pid for container in self._registry.containers.values() for process in container.alive()}
        # Pids of helpers and compilers are known as soon as they live (``HelperChannel.connect``). No forkserver is
        # being started now: one is only where none is connected, and so none is lost.
        known = self.client.pids.union(self._aot.pids, alive, *(helper.pids for helper in self._helpers))
        for child in psutil.Process().children():
            if child.pid not in known:
                log.warning("killing pid %d, whose start was lost with the forkserver", child.pid)
                child.kill()
        self._reconnect_soon()

    def _watch_others(self, has: Set[int]) -> None:
        """Watch what runs and is no forkserver's any more: all but the instances that ours has."""
        for container in self._registry.containers.values():
            for process in container.alive():
                if process.instance not in has and not self.client.earlier.has(process.instance):
                    self.orphans.watch(process)
        self.orphans.watch_starts(has)

    def _watch_left(self, instances: set[int]) -> None:
        """Watch what a forkserver of another build ran, which has died."""
        if self._ending:
            return
        for instance in instances:
            _, process = self._registry.processes.get(instance, (None, None))
            if process is not None and process.exit is None:
                self.orphans.watch(process)

    def _reconnect_soon(self) -> None:
        """Begin to reconnect, unless that is under way: it tries again by itself."""
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.ensure_future(self._reconnect())

    async def _reconnect(self) -> None:
        engines: dict[str, str] | None = None
        while engines is None or not self.client.connected:  # it may die again before we get to hear of it
            try:
                inventory = await self.connect()
                engines = inventory.engines
                self._watch_others({*inventory.running, *(each.instance for each in inventory.ended)})
                self.client.exited(inventory.ended)
            except (HelperFailed, SandboxerError, OSError, TimeoutError, RuntimeError) as error:
                log.error("no new forkserver: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._compile_for(engines)
        log.info("a forkserver is up")

    async def _compile_for(self, engines: dict[str, str]) -> None:
        """Begin with products for these engines; again while the cache cannot be used and the forkserver is there."""
        while self.client.connected:
            try:
                await self._aot.start(engines)
            except (CacheUnusable, SandboxerError, OSError, TimeoutError, RuntimeError) as error:
                log.error("nothing can be compiled for the new forkserver: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return
