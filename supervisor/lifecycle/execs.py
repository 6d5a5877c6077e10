"""Execs: processes that come and go in a running container, with bounds on how many there may be."""

from __future__ import annotations

import logging

from sandbox_api.errors import ResourceExhausted

from ..model.container import Container
from ..model.process import Process, ProcessState
from ..model.registry import Registry
from ..state.store import Store, StoreFailed
from .events import TaskEvents

log = logging.getLogger(__name__)

MAX_EXECS = 1024
"""Execs of a container that may be created or running at once."""

KEPT_EXECS = 256
"""Ended execs that a container keeps. Beyond, the one that ended first is deleted: iSulad never deletes an exec, and
probes run for weeks."""


class Execs:
    """Adds and removes the execs of containers."""

    def __init__(self, registry: Registry, store: Store, events: TaskEvents) -> None:
        self._registry = registry
        self._store = store
        self._events = events

    def add(self, container: Container, process: Process, spec: bytes) -> None:
        """Record an exec. Raises ``ResourceExhausted`` where the container has too many."""
        if sum(each.exit is None for each in (container.execs or {}).values()) >= MAX_EXECS:
            raise ResourceExhausted(f"container {process.name}: {MAX_EXECS} execs are created or running: end some")
        self._trim(container)
        self._store.add_process(container, process, spec)
        self._registry.add_exec(container, process)
        self._events.exec_added(container, process)

    def remove(self, container: Container, process: Process) -> None:
        """Delete an exec that does not run."""
        self._store.remove_process(process)
        self._registry.remove_exec(container, process)
        process.forget()
        self._events.deleted(container, process)

    def purge(self, container: Container, process: Process) -> None:
        """Delete an exec: at once where it does not run, or else when it ends."""
        if process.state in (ProcessState.CREATED, ProcessState.STOPPED):
            self.remove(container, process)
            return
        process.purged = True
        try:
            self._store.update_process(process)
        except StoreFailed:
            process.purged = False
            raise

    def start_failed(self, container: Container, process: Process) -> None:
        """Delete an exec whose start failed, where it was purged meanwhile."""
        if process.purged:
            self.remove(container, process)

    def exited(self, container: Container, process: Process) -> None:
        """Delete execs that no client will ask for, after one has ended and its waiters were told."""
        if process.purged:
            self._try_to_remove(container, process)
        self._trim(container)

    def remove_purged(self) -> None:
        """Delete purged execs that a dead supervisor left."""
        for container, process in list(self._registry.processes.values()):
            if process.purged and process.state in (ProcessState.CREATED, ProcessState.STOPPED):
                self._try_to_remove(container, process)

    def _trim(self, container: Container) -> None:
        kept = [process for process in (container.execs or {}).values() if process.exit is not None]
        if len(kept) > KEPT_EXECS:
            kept.sort(key=lambda process: process.exit.at if process.exit else 0)
            for process in kept[:-KEPT_EXECS]:
                self._try_to_remove(container, process)

    def _try_to_remove(self, container: Container, process: Process) -> None:
        if (container.execs or {}).get(process.exec_id) is not process:
            return
        try:
            self.remove(container, process)
        except StoreFailed as error:  # the next exec that ends, or the next supervisor, tries again
            log.warning("%s is not deleted: %s", process.name, error)
