"""Exits of workers whose forkserver died.

The kernel reports them where we are their parent now (as subreaper). Workers of a forkserver that an earlier
supervisor had started are init's children: a pidfd reports those.
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
from collections.abc import Set

from ..host import proc
from ..ipc.forkserver import ForkserverClient
from ..ipc.inventory import Ended
from ..model.process import Process
from ..model.registry import Registry

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Seconds between two looks for an orphan that no descriptor is left to watch."""

UNKNOWN = 255 << 8
"""Wait status where the real one is unknown, as containerd has it (client.UnknownExitStatus)."""

# PIDFD_GET_INFO (linux/pidfd.h, 6.13; exit codes from 6.15): 64 bytes, mask first, the exit code at 60.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3


class Orphans:
    """Watches workers that no forkserver watches, and reports their exits as the forkserver would."""

    def __init__(self, registry: Registry, forkserver: ForkserverClient) -> None:
        self._registry = registry
        self._forkserver = forkserver
        self._adopted: dict[int, int] = {}  # workers that are our children by now: instance by pid
        self._watched = 0
        self._most_watched = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

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
                self._mark(instance, pid)
                ended.append(Ended(instance, pid, status, time.time_ns()))
        if ended:
            self._forkserver.exited(ended)

    def watch(self, process: Process) -> None:
        """Watch a process whose forkserver died, unless it is watched, or its end is known.

        Where it is our child now, SIGCHLD reports its exit.
        """
        if self._forkserver.knows_end(process.instance):
            return
        self._watch(process.instance, process.pid, process.start_time)

    def watch_starts(self, has: Set[int]) -> None:
        """Watch the processes whose start is under way and was lost, all but the instances that a forkserver has."""
        for instance, pid in self._forkserver.lost_starts().items():
            if instance not in has:
                self._watch(instance, pid, proc.start_time(pid))

    def _watch(self, instance: int, pid: int, start_time: int) -> None:
        if not self._mark(instance, pid):
            return
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._watch_pidfd(instance, pid, start_time)
        else:
            self._adopted[pid] = instance

    def _mark(self, instance: int, pid: int) -> bool:
        """Mark a process whose end we tell; false where it is: on a full disk, what was told is not on record yet."""
        _, process = self._registry.processes.get(instance, (None, None))
        if process is None:
            return True
        before, process.orphaned = process.orphaned, pid
        return before != pid

    def _watch_pidfd(self, instance: int, pid: int, start_time: int) -> None:
        """Watch a process that is not our child: by pidfd, while descriptors last."""
        loop = asyncio.get_running_loop()
        if not start_time or proc.start_time(pid) != start_time:
            log.warning("instance %d, pid %d: ended unwatched: exit status unknown, reporting 255", instance, pid)
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
            log.warning("instance %d, pid %d: exit status unknown, reporting 255", instance, pid)
        self._forkserver.exited([Ended(instance, pid, status, time.time_ns())])

    def _instance_of(self, pid: int) -> int:
        """The instance of a process that ended before its forkserver's death was known; 0 where there is none."""
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
