"""``run --rm``: a pod that says so is removed when its container has ended, whether or not its client lives still."""

from __future__ import annotations

import asyncio
import logging

from sandbox_api.errors import NotFound, SandboxerError

from ..model.container import Container
from ..model.labels import REMOVE_LABEL
from ..model.process import Process
from ..model.registry import Registry
from ..model.sandbox import Sandbox
from .sandboxes import SandboxService

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""Seconds after which a removal that failed is tried again: the disk was full, or another is in its control group."""


class AutoRemove:
    """Removes pods that carry the label."""

    def __init__(self, registry: Registry, sandboxes: SandboxService) -> None:
        self._registry = registry
        self._sandboxes = sandboxes
        self._recovered = False
        self._removing: set[asyncio.Task[None]] = set()

    def look_over(self) -> None:
        """Begin: remove what ended while no supervisor ran. What exists is recovered."""
        self._recovered = True
        for sandbox in list(self._registry.sandboxes.values()):
            ended = [each.init.exit is not None for each in sandbox.containers.values()]
            if REMOVE_LABEL in sandbox.labels and ended and all(ended):
                self._remove_soon(sandbox)

    def ended(self, container: Container, process: Process) -> None:
        """A process has ended."""
        if process is not container.init or not self._recovered:
            return
        sandbox = self._registry.sandboxes.get((container.namespace, container.sandbox_id))
        if sandbox is not None and REMOVE_LABEL in sandbox.labels:
            self._remove_soon(sandbox)

    def _remove_soon(self, sandbox: Sandbox) -> None:
        task = asyncio.ensure_future(self._remove(sandbox))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _remove(self, sandbox: Sandbox) -> None:
        while True:
            try:
                await self._sandboxes.shutdown(sandbox.namespace, sandbox.id)
            except NotFound:  # its client was quicker
                return
            except SandboxerError as error:
                log.warning("sandbox %s was to be removed at its end: %s: trying again", sandbox.id, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return
