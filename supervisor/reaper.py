"""The reaper: every exit reaches its process once, on record before anybody hears of it, and then acknowledged."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence

from sandbox_api.interface import Exit

from .container import Container
from .launcher import Ended
from .process import Process, ProcessState
from .registry import Registry
from .store import Store

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


def exit_status(wait_status: int) -> int:
    """A guest's status from waitpid(2)'s: 0 to 255, or 128 and the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


class Reaper:
    """Turns exits, told by the forkserver or by the kernel, into ends of processes."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        acknowledge: Callable[[Sequence[int]], None],
        on_end: Callable[[Container, Process], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._acknowledge = acknowledge
        self._on_end = on_end

    def exits(self, exits: Sequence[Ended]) -> None:
        """These instances have ended. Many at once cost one transaction."""
        told = []
        for ended in exits:
            _, process = self._registry.processes.get(ended.instance, (None, None))
            if process is not None and process.exit is None:
                process.exit = Exit(exit_status(ended.status), ended.at)
                process.state = ProcessState.STOPPED
                told.append(process)
        try:
            self._store.update_processes(told)
        except sqlite3.Error as error:
            log.error("exits of %d processes are not on record yet: %s", len(told), error)
            for process in told:
                process.exit, process.state = None, ProcessState.RUNNING
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self.exits, exits)
            return
        self._acknowledge([ended.instance for ended in exits])
        for process in told:
            assert process.exit is not None
            process.end(process.exit)
            container, _ = self._registry.processes[process.instance]
            log.info("ended %s pid=%d status=%d", process.name, process.pid, process.exit.status)
            self._on_end(container, process)

    def adopted(self) -> None:
        """Collect children of our own: helpers, and workers whose forkserver died (we are its subreaper)."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            instance = self._instance_of(pid)
            if instance:
                ended.append(Ended(instance, pid, status, time.time_ns()))
        if ended:
            self.exits(ended)

    def _instance_of(self, pid: int) -> int:
        for instance, (_, process) in self._registry.processes.items():
            if process.pid == pid and process.exit is None:
                return instance
        return 0
