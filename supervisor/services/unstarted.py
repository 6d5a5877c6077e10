"""Sandboxes that were created and never started: their engine died in between, and nobody will ask for them again."""

from __future__ import annotations

import asyncio
import logging
import time

from sandbox_api.errors import SandboxerError

from ..model.registry import Registry
from ..model.sandbox import SandboxState
from .sandboxes import SandboxService

log = logging.getLogger(__name__)

START_WITHIN = 600.0
"""Seconds between Create and Start after which a sandbox is given up; engines take milliseconds."""
_LOOK_EVERY = 60.0


class Unstarted:
    """Removes them."""

    def __init__(self, registry: Registry, sandboxes: SandboxService) -> None:
        self._registry = registry
        self._sandboxes = sandboxes

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.remove(time.time_ns())
            await asyncio.sleep(_LOOK_EVERY)

    async def remove(self, now: int) -> None:
        """Remove those that are too old at ``now`` (nanoseconds)."""
        for sandbox in list(self._registry.sandboxes.values()):
            if sandbox.state is not SandboxState.CREATED or now - sandbox.created_at < START_WITHIN * 1e9:
                continue
            try:
                await self._sandboxes.shutdown(sandbox.namespace, sandbox.id)
            except SandboxerError as error:
                log.warning("sandbox %s was never started, and cannot be removed: %s", sandbox.id, error)
            else:
                log.warning("sandbox %s was not started within %.0f s: removed", sandbox.id, START_WITHIN)
