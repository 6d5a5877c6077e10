"""Containers that containerd has given up while no daemon served: the next daemon ends them.

A containerd that starts and cannot reach a container's daemon within its time (5 s) calls the runtime's shim for
``delete``, and takes the container for dead whatever that answers. Ours (packaging/containerd) leaves a note for us: a
file in ``--dir/given-up`` with the container's namespace and id, a line each. containerd starts no container more in
a pod whose sandbox did not answer either, though it shows it as ready. So a sandbox of which nothing is left is
stopped, and the kubelet makes a new one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

from sandbox_api.errors import NotFound, SandboxerError

from ..model.registry import Registry
from .sandboxes import SandboxService
from .tasks import TaskService

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


class GivenUp:
    """Obeys the notes."""

    def __init__(self, folder: Path, registry: Registry, tasks: TaskService, sandboxes: SandboxService) -> None:
        """Notes are files in ``folder``, which need not be there."""
        self._folder = folder
        self._registry = registry
        self._tasks = tasks
        self._sandboxes = sandboxes

    async def watch(self) -> None:
        """Obey notes until cancelled: a daemon that lives, but did not answer in time, gets them, too."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.obey()

    async def obey(self) -> None:
        """End and delete the containers that notes are about, and remove the notes."""
        for note in self._notes():
            try:
                namespace, container_id, *_ = note.read_text().split("\n")
                await self._end(namespace, container_id)
            except NotFound:
                pass
            except (SandboxerError, OSError, ValueError) as error:
                log.error("%s: not obeyed: %s", note, error)
                if not isinstance(error, ValueError):
                    continue
            note.unlink(missing_ok=True)

    async def _end(self, namespace: str, container_id: str) -> None:
        log.warning("ending %s: containerd has given it up", container_id)
        try:
            await self._tasks.kill(namespace, container_id, "", signal.SIGKILL, True)
            await self._tasks.wait(namespace, container_id, "")
        except NotFound:  # it has ended, or was never there
            pass
        sandbox_id = self._registry.container(namespace, container_id).sandbox_id
        await self._tasks.delete(namespace, container_id, "")
        containers = self._registry.containers.values()
        if not any(
            (each.namespace, each.sandbox_id) == (namespace, sandbox_id) and each.alive() for each in containers
        ):
            await self._sandboxes.stop(namespace, sandbox_id, 0)

    def _notes(self) -> list[Path]:
        return sorted(self._folder.glob("*.note")) if self._folder.is_dir() else []
