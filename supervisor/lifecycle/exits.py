"""Recording exits: every exit reaches its process once, is recorded before it is reported, then acknowledged.

Exits come from the forkserver, and from ``orphans`` where that one died.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from functools import partial

from sandbox_api.interface import Exit

from ..host.counters import Counters
from ..ipc.forkserver import ForkserverClient
from ..ipc.inventory import Ended
from ..ipc.logger import LoggerClient
from ..model.container import Container
from ..model.process import Process, ProcessState
from ..model.registry import Registry
from ..seccomp.library import call_name
from ..state.retry import until_recorded
from ..state.store import Store, StoreFailed
from .events import TaskEvents
from .execs import Execs
from .signals import Signals

log = logging.getLogger(__name__)

TRAP = 134
"""Status of a guest that trapped."""


def exit_status(wait_status: int) -> int:
    """A guest's status from waitpid(2)'s: 0 to 255, or 128 and the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


def exit_kind(ended: Ended) -> str:
    """Name the kind of end, in a word."""
    if ended.call >= 0:
        return "forbidden_call"
    if os.WIFSIGNALED(ended.status):
        return "signal"
    code = os.waitstatus_to_exitcode(ended.status)
    return "trap" if code == TRAP else "nonzero" if code else "zero"


class ExitRecorder:
    """Turns exits into ends of processes."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        forkserver: ForkserverClient,
        events: TaskEvents,
        signals: Signals,
        execs: Execs,
        logger: LoggerClient,
        counters: Counters | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._forkserver = forkserver
        self._events = events
        self._signals = signals
        self._execs = execs
        self._logger = logger
        self._counters = counters or Counters()
        self._unrecorded: dict[int, Ended] = {}
        self._ending: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references

    def record(self, exits: Sequence[Ended]) -> None:
        """Record exits, acknowledge them, and answer Waits. Many at once cost one transaction.

        The first that is told of an instance is its exit, also where it could not be recorded yet: one whose forkserver
        died since is found ended, and nobody knows how.
        """
        exits = [self._unrecorded.setdefault(ended.instance, ended) for ended in exits]
        until_recorded(partial(self._record, exits), f"{len(exits)} exits cannot be recorded")

    def _record(self, exits: list[Ended]) -> None:
        """Raises ``StoreFailed``; then nothing has changed."""
        told: list[tuple[Container, Process, ProcessState]] = []
        for ended in exits:
            container, process = self._registry.processes.get(ended.instance, (None, None))
            if container is not None and process is not None and process.exit is None:
                told.append((container, process, process.state))
                process.exit = Exit(exit_status(ended.status), ended.at)
                process.state = ProcessState.STOPPED
        try:
            self._store.update_processes([process for _, process, _ in told])
        except StoreFailed:
            for _, process, before in told:
                process.exit, process.state = None, before
            raise
        for ended in exits:
            self._unrecorded.pop(ended.instance, None)
        self._forkserver.acknowledge([ended.instance for ended in exits])
        calls = {ended.instance: ended.call for ended in exits if ended.call >= 0}
        kinds = {ended.instance: exit_kind(ended) for ended in exits}
        for container, process, _ in told:
            if process.instance in calls:
                log.warning("%s: forbidden system call %s", process.name, call_name(calls[process.instance]))
            assert process.exit is not None
            process.mark_exited(process.exit)
            quiet = process.exec_id and process.exit.status == 0  # probes run every few seconds
            level = logging.DEBUG if quiet else logging.INFO
            log.log(level, "ended %s pid=%d status=%d", process.name, process.pid, process.exit.status)
            self._counters.exits[self._ended(container, process) or kinds[process.instance]] += 1
        for container, process, _ in told:  # when all are told: an exec's end may delete others that have ended
            if process.exec_id:
                self._execs.exited(container, process)

    def _ended(self, container: Container, process: Process) -> str:
        """Send the exit's events, complete its log; end a container's execs with its init process.

        Returns the kind of the exit where that is not its status, but its control group's word.
        """
        kind = ""
        self._logger.finish_soon(process.instance)
        if container.cgroup is not None and process.exit is not None and process.exit.status == 128 + signal.SIGKILL:
            kills = container.cgroup.oom_kills()
            if kills > container.oom_kills:
                container.oom_kills = kills
                log.warning("%s was killed for memory", process.name)
                self._events.out_of_memory(container)
                kind = "memory"
        self._events.ended(container, process)
        if not process.exec_id and container.execs:
            ending = asyncio.ensure_future(self._signals.end_execs(container))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return kind
