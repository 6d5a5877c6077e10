"""Containers that containerd has given up while no daemon served: the next daemon ends them.

A containerd that starts and cannot reach a container's daemon within its time (5 s), or whose connection to it breaks,
calls the runtime's shim for ``delete``, and takes the container for dead. Ours (packaging/containerd) leaves a note for
us: a file in ``--dir/given-up`` with the container's namespace and id, a line each. It is called for every deleted
container, too: most notes are about nothing that is left.

containerd also starts no container more in a pod whose sandbox did not answer within a second, though it shows it as
ready. So a sandbox of which nothing is left is stopped, and the kubelet makes a new one. Of one that had no container
no note tells: those are stopped by a daemon that finds another containerd than the last one did.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox_api.errors import Internal, NotFound, SandboxerError

from ..model.process import ALIVE
from ..model.registry import Registry
from ..model.sandbox import SandboxState
from .sandboxes import SandboxService
from .tasks import TaskService

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
_FIRST_LOOKS = 20
"""Looks for containerd before the first for notes: it may start together with us."""
_SETTLED_SECONDS = 60.0
"""Age at which a note is obeyed or removed, whatever it says."""
_END_SECONDS = 10.0
"""Seconds that a killed container may take to end: a daemon that starts serves nobody until then."""
_CRI = "k8s.io"
"""The namespace of containerd's CRI service."""
_TICK = os.sysconf("SC_CLK_TCK")


class GivenUp:
    """Obeys the notes."""

    def __init__(
        self, folder: Path, registry: Registry, tasks: TaskService, sandboxes: SandboxService, containerd: str = ""
    ) -> None:
        """Notes are files in ``folder``, which need not be there; ``containerd`` is a socket of containerd's own."""
        self._folder = folder
        self._containerd = containerd
        self._seen = folder.with_name("containerd")
        self._noted = ""
        self._registry = registry
        self._tasks = tasks
        self._sandboxes = sandboxes

    async def watch(self) -> None:
        """Obey notes until cancelled: a daemon that lives, but did not answer in time, gets them, too."""
        for _ in range(_FIRST_LOOKS):
            await asyncio.sleep(LOOK_SECONDS / _FIRST_LOOKS)
            self._note_containerd()
        while True:
            await self.obey()
            self._note_containerd()
            await asyncio.sleep(LOOK_SECONDS)

    async def end_forgotten(self, connections_lost: bool) -> None:
        """End what containerd has given up without a note, before anything is served.

        It starts nothing more in empty sandboxes where it was started since a daemon last saw it. And where it is the
        same still and all its connections were lost, it takes for dead what it had waited for; before 2.4 it calls no
        shim then.
        """
        now, before = self._identity(), ""
        with suppress(OSError):
            before = self._seen.read_text()
        forgotten: list[Coroutine[Any, Any, None]] = []
        if now and before and now != before:
            for sandbox in self._registry.sandboxes.values():
                if sandbox.namespace == _CRI and sandbox.state is SandboxState.READY:
                    forgotten.append(self._stop_if_nothing_is_left(_CRI, sandbox.id))
        elif connections_lost and now and await asyncio.to_thread(_is_served, self._containerd):
            for container in self._registry.containers.values():
                if container.namespace == _CRI and container.init.state in ALIVE:
                    forgotten.append(self._end(_CRI, container.id))
        for each in forgotten:
            try:
                await each
            except SandboxerError as error:  # the others are to be ended all the same
                log.error("not ended, though containerd has given it up: %s", error)
        self._note_containerd()

    def _note_containerd(self) -> None:
        identity = self._identity()
        if identity and identity != self._noted:
            with suppress(OSError):  # a full disk: at worst empty pods are made again
                self._seen.write_text(identity)
                self._noted = identity

    def _identity(self) -> str:
        """Name the containerd of now: it makes its socket anew whenever it starts. "" where there is none."""
        try:
            status = os.stat(self._containerd)
        except OSError:
            return ""
        return f"{status.st_dev} {status.st_ino} {status.st_ctime_ns}"

    async def obey(self) -> None:
        """End and delete the containers that notes are about, and remove the notes."""
        for note in self._notes():
            try:
                age = time.time() - note.stat().st_mtime
                lines = note.read_text().split("\n")
                if len(lines) < 3 and age < _SETTLED_SECONDS:  # it is being written: a shell makes the file first
                    continue
                namespace, container_id, *_ = lines
                started = self._registry.container(namespace, container_id).init.start_time
                if not started and age < _SETTLED_SECONDS:  # perhaps another of this id, that is yet to be started
                    continue
                if started / _TICK < time.clock_gettime(time.CLOCK_BOOTTIME) - age:
                    await self._end(namespace, container_id)
            except NotFound:
                pass
            except (SandboxerError, OSError, ValueError) as error:
                log.error("%s: not obeyed: %s", note, error)
                if not isinstance(error, ValueError):
                    continue
            note.unlink(missing_ok=True)

    async def _end(self, namespace: str, container_id: str) -> None:
        sandbox_id = self._registry.container(namespace, container_id).sandbox_id
        log.warning("ending %s: containerd has given it up", container_id)
        try:
            await self._tasks.kill(namespace, container_id, "", signal.SIGKILL, True)
            async with asyncio.timeout(_END_SECONDS):
                await self._tasks.wait(namespace, container_id, "")
        except NotFound:  # it has ended, or was never there
            pass
        except TimeoutError:
            raise Internal(f"container {container_id}: it does not end after SIGKILL") from None
        await self._tasks.delete(namespace, container_id, "")
        await self._stop_if_nothing_is_left(namespace, sandbox_id)

    async def _stop_if_nothing_is_left(self, namespace: str, sandbox_id: str) -> None:
        if not any(
            (each.namespace, each.sandbox_id) == (namespace, sandbox_id) and each.alive()
            for each in self._registry.containers.values()
        ):
            await self._sandboxes.stop(namespace, sandbox_id, 0)

    def _notes(self) -> list[Path]:
        return sorted(self._folder.glob("*.note")) if self._folder.is_dir() else []


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(path) == 0
