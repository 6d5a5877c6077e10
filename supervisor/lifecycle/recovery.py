"""Recovery: match the state that the last supervisor recorded with what really runs.

Any process may have died at any moment. The store says what was wanted, the forkserver what runs and what
has ended. What neither knows is looked up in /proc, or reported as unknown.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress

from sandbox_api.errors import InvalidArgument, NotFound

from ..cgroups import Hierarchy
from ..host import proc
from ..ipc.inventory import Inventory
from ..ipc.logger import LoggerClient
from ..model.container import Container
from ..model.process import ALIVE, Process, ProcessState
from ..model.registry import Registry
from ..oci import container_log, pod_files
from ..oci.container_log import Log
from ..state.store import Made, Store
from . import abandoned
from .containers import ContainerManager
from .execs import Execs
from .exits import ExitRecorder
from .forkserver import ForkserverManager
from .preparations import Preparations

log = logging.getLogger(__name__)

NEVER_RAN = 125 << 8
"""Wait status of a worker that could not report its guest as ready, and so did not run it."""


class Recovery:
    """Fills the registry from the store, and corrects every process's state."""

    def __init__(
        self,
        folder: str,
        registry: Registry,
        store: Store,
        hierarchy: Hierarchy,
        containers: ContainerManager,
        preparations: Preparations,
        exits: ExitRecorder,
        execs: Execs,
        forkserver: ForkserverManager,
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._store = store
        self._hierarchy = hierarchy
        self._containers = containers
        self._preparations = preparations
        self._exits = exits
        self._execs = execs
        self._forkserver = forkserver.client
        self._orphans = forkserver.orphans
        self._changing: list[Container] = []

    def load(self) -> None:
        """Read the records, and undo unfinished changes."""
        for sandbox in self._store.sandboxes():
            self._registry.sandboxes[sandbox.namespace, sandbox.id] = sandbox
        recorded = list(self._store.containers())
        for container, cgroup, _ in recorded:  # all of them first: parents go with the last that holds them
            try:
                container.cgroup = self._hierarchy.attach(cgroup) if cgroup else None
            except InvalidArgument as error:
                raise self._store.found_damaged(str(error)) from None
        self._changing = [container for container, _, made in recorded if made is Made.CHANGING]
        for container, _, made in recorded:
            home = self._registry.sandboxes.get((container.namespace, container.sandbox_id))
            if made and home is not None:
                self._registry.add(home, container)
            else:
                log.info("undoing %s, whose creation was not finished", container.id)
                self._containers.unmake(container)
        for sandbox in self._registry.sandboxes.values():
            self._preparations.forget_unfinished(sandbox)
        self._preparations.sweep()
        pod_files.sweep(self._folder, set(self._registry.sandboxes))

    async def reconcile(self, inventory: Inventory) -> None:
        """Compare the registry with what the forkservers have."""
        self._number_above(inventory)
        ended = {each.instance: each for each in inventory.ended}
        changed: list[Process] = []
        orphans: list[Process] = []
        for instance, (_, process) in self._registry.processes.items():
            if process.exit is not None:
                continue
            if instance in inventory.running:
                process.pid = inventory.running[instance]
                if process.state not in ALIVE:  # its start was under way, and came out well
                    process.state, process.start_time = ProcessState.RUNNING, proc.start_time(process.pid)
                    changed.append(process)
            elif instance in ended:
                if process.state not in ALIVE and ended[instance].status == NEVER_RAN:
                    del ended[instance]  # its start never came out: it may be tried again
                else:
                    process.pid = ended[instance].pid
            elif process.state in ALIVE:
                orphans.append(process)
        self._store.update_processes(changed)
        self._exits.record(list(ended.values()))
        self._forkserver.acknowledge([each.instance for each in inventory.ended])
        for process in orphans:  # their forkserver died, too; they may still run
            self._orphans.watch(process)
        self._execs.remove_purged()
        for container in self._changing:
            self._containers.repair(container)
        if self._forkserver.fresh:
            self._end_strays()
        if self._store.new:
            await abandoned.end_all(self._folder, self._hierarchy, self._forkserver)
            self._store.number_from(time.time_ns() // 1_000_000)  # above all that helpers may still know
            return
        for instance in inventory.running.keys() - self._registry.processes.keys():
            log.warning("killing instance %d, which is not on record", instance)
            with suppress(NotFound):
                await self._forkserver.kill(instance, signal.SIGKILL)
        if self._registry.sandboxes:
            log.info(
                "recovered %d sandboxes, %d containers, %d instances that run, %d exits",
                len(self._registry.sandboxes),
                len(self._registry.containers),
                len(inventory.running),
                len(ended),
            )

    def _number_above(self, inventory: Inventory) -> None:
        """Give no number twice although the file lost its newest records: with its -wal, say, by a hand."""
        newest = max((*inventory.running, *(each.instance for each in inventory.ended)), default=0)
        if newest > self._store.last_instance and not self._store.new:
            log.error("the state file lacks its newest records: it was changed, or its -wal was removed meanwhile")
            self._store.number_from(newest + 1)

    async def resume_logs(self, logger: LoggerClient) -> None:
        """Continue the logs that are written for containers."""
        running: dict[int, tuple[str, Log]] = {}
        for instance in logger.instances():
            container, process = self._registry.processes.get(instance, (None, None))
            if container is not None and process is not None and process.exit is None:
                try:
                    where = container_log.parse(self._containers.source(container).spec.annotations, container.id)
                except InvalidArgument as error:  # an earlier version took it
                    log.error("container %s: its log does not continue: %s", container.id, error)
                    continue
                if where is not None:
                    running[instance] = container.id, where
        await logger.resume(running)

    def _end_strays(self) -> None:
        """End workers whose start was interrupted by the death of forkserver and supervisor."""
        known = {process.pid for _, process in self._registry.processes.values() if process.exit is None}
        for pid in self._forkserver.workers():
            if pid not in known:
                log.warning("killing pid %d, whose start was lost with its forkserver", pid)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
