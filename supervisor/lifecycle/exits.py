"""The reaper: every exit reaches its process once, on record before anybody hears of it, and then acknowledged.

Exits come from the forkserver; from the kernel, for workers whose forkserver died and whose parent we are
then (as subreaper); and from a pidfd, for workers of a forkserver that an earlier supervisor had started.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import resource
import struct
import time
from collections.abc import Callable, Sequence

from sandbox_api.interface import Exit

from ..host import proc
from ..ipc.forkserver import Ended, ForkserverClient
from ..model.container import Container
from ..model.process import Process, ProcessState
from ..model.registry import Registry
from ..oci.seccomp import call_name
from ..state.store import Store, StoreFailed

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
LOOK_SECONDS = 5.0
"""How often an orphan is looked for that there is no descriptor to watch by."""

UNKNOWN = 255 << 8
"""Wait status that stands for one nobody knows. 255 is containerd's own word for it (client.UnknownExitStatus)."""

# PIDFD_GET_INFO (linux/pidfd.h, 6.13; exit codes from 6.15): 64 bytes, mask first, the exit code at 60.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3


def exit_status(wait_status: int) -> int:
    """A guest's status from waitpid(2)'s: 0 to 255, or 128 and the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


class ExitRecorder:
    """Turns exits into ends of processes."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        forkserver: ForkserverClient,
        on_end: Callable[[Container, Process], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._forkserver = forkserver
        self._on_end = on_end
        self._adopted: dict[int, int] = {}  # workers that are our children by now: instance by pid
        self._watched = 0
        self._most_watched = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def record(self, exits: Sequence[Ended]) -> None:
        """These instances have ended. Many at once cost one transaction."""
        told: list[tuple[Process, ProcessState]] = []
        for ended in exits:
            _, process = self._registry.processes.get(ended.instance, (None, None))
            if process is not None and process.exit is None:
                told.append((process, process.state))
                process.exit = Exit(exit_status(ended.status), ended.at)
                process.state = ProcessState.STOPPED
        try:
            self._store.update_processes([process for process, _ in told])
        except StoreFailed as error:
            log.error("%d exits are not on record yet: %s", len(told), error)
            for process, before in told:
                process.exit, process.state = None, before
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self.record, exits)
            return
        self._forkserver.acknowledge([ended.instance for ended in exits])
        calls = {ended.instance: ended.call for ended in exits if ended.call >= 0}
        for process, _ in told:
            if process.instance in calls:
                log.warning("%s: forbidden system call %s", process.name, call_name(calls[process.instance]))
            assert process.exit is not None
            process.mark_exited(process.exit)
            container, _ = self._registry.processes[process.instance]
            log.info("ended %s pid=%d status=%d", process.name, process.pid, process.exit.status)
            self._on_end(container, process)

    def collect_children(self) -> None:
        """Collect children of our own: helpers, and workers whose forkserver died."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            instance = self._forkserver.starting(pid) or self._adopted.pop(pid, 0) or self._instance_of(pid)
            if instance:
                ended.append(Ended(instance, pid, status, time.time_ns()))
        if ended:
            self._forkserver.exited(ended)

    def watch(self, process: Process) -> None:
        """Look after a process whose forkserver died. Where it is our child now, the kernel tells us its end."""
        self._watch(process.instance, process.pid, process.start_time)

    def watch_starts(self) -> None:
        """The same for processes whose start is under way."""
        for instance, pid in self._forkserver.starts().items():
            self._watch(instance, pid, proc.start_time(pid))

    def _watch(self, instance: int, pid: int, start_time: int) -> None:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._watch_pidfd(instance, pid, start_time)
        else:
            self._adopted[pid] = instance

    def _watch_pidfd(self, instance: int, pid: int, start_time: int) -> None:
        """Look after a process that is nobody's child of ours: by a pidfd, while they leave descriptors for others."""
        loop = asyncio.get_running_loop()
        if not start_time or proc.start_time(pid) != start_time:
            log.warning("instance %d, pid %d: ended while nobody watched: its status is not known", instance, pid)
            self._forkserver.exited([Ended(instance, pid, UNKNOWN, time.time_ns())])
            return
        try:
            if self._watched >= self._most_watched:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pidfd = os.pidfd_open(pid)
        except OSError:
            loop.call_later(LOOK_SECONDS, self._watch_pidfd, instance, pid, start_time)
            return
        self._watched += 1
        loop.add_reader(pidfd, self._pidfd_ended, instance, pid, start_time, pidfd)

    def _pidfd_ended(self, instance: int, pid: int, start_time: int, pidfd: int, tries: int = 100) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(pidfd)
        status = proc.status_left(pid, start_time)
        if status is None:
            status = _pidfd_status(pidfd)
        if status is None and tries:  # it is told once its parent, init, has reaped it
            loop.call_later(0.01, self._pidfd_ended, instance, pid, start_time, pidfd, tries - 1)
            return
        os.close(pidfd)
        self._watched -= 1
        if status is None:
            status = UNKNOWN
            log.warning("instance %d, pid %d: nobody knows its status: 255 stands for it", instance, pid)
        self._forkserver.exited([Ended(instance, pid, status, time.time_ns())])

    def _instance_of(self, pid: int) -> int:
        """Of one that ended before we heard that its forkserver had."""
        for instance, (_, process) in self._registry.processes.items():
            if process.pid == pid and process.exit is None:
                return instance
        return 0


def _pidfd_status(pidfd: int) -> int | None:
    """The wait status of a process that has ended and been reaped; None where the kernel does not tell."""
    buffer = bytearray(struct.pack("Q56x", _PIDFD_INFO_EXIT))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    mask, status = struct.unpack("Q52xi", buffer)
    return status if mask & _PIDFD_INFO_EXIT else None
