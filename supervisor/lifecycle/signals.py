"""Signals to processes, and ending containers with them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any

from sandbox_api.errors import Internal, InvalidArgument, NotFound, Unavailable
from sandbox_api.interface import Exit

from ..host import proc
from ..ipc.forkserver import ForkserverClient
from ..model.container import Container
from ..model.process import Process, ProcessState
from ..state.store import Store
from .events import TaskEvents

KILL_SECONDS = 30.0
"""Seconds that a killed process may take to end; only one stuck in the kernel takes longer."""

EXISTS = 0
"""No signal: kill(2) only looks whether the process is there."""

_ENDS_NOTHING = frozenset(
    {
        EXISTS,
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)


class Signals:
    """Sends signals. Takes no container's lock: a signal must get through to a process that hangs in its start."""

    def __init__(self, store: Store, forkserver: ForkserverClient, events: TaskEvents) -> None:
        self._store = store
        self._forkserver = forkserver
        self._events = events

    async def send(self, container: Container, process: Process, number: int) -> bool:
        """Send a signal; false where the process has ended. One that never ran ends by a signal that would end it.

        Signal 0 changes nothing: iSulad 2.1.6 asks with it whether a container lives (shim_rt_ops.c,
        rt_shim_detect_process).

        Raises ``InvalidArgument`` where there is no such signal.
        """
        if number != EXISTS and number not in signal.valid_signals():
            raise InvalidArgument(f"container {process.name}: there is no signal {number}")
        if process.exit is not None:
            return False
        if process.state is ProcessState.CREATED:
            if number not in _ENDS_NOTHING:
                ended = Exit(128 + number, time.time_ns())
                self._store.update_process(replace(process, exit=ended, state=ProcessState.STOPPED))
                process.mark_exited(ended)
                self._events.ended(container, process)
            return True
        if process.state is ProcessState.STARTING and number == EXISTS:  # it may have no process yet
            return True
        try:
            await self._forkserver.kill(process.instance, number)
        except (NotFound, Unavailable):
            if not _send_directly(process, number):
                return False
        if number == signal.SIGKILL and process.state is ProcessState.PAUSED and container.cgroup is not None:
            container.cgroup.thaw()  # frozen by version 1 of control groups, a process does not even die
        return True

    async def send_all(self, container: Container, number: int) -> bool:
        """Send a signal to every process of the container's; false where all have ended."""
        told = [await self.send(container, process, number) for process in container.processes()]
        return any(told)

    async def terminate(self, containers: Iterable[Container], timeout: float) -> None:
        """End every process of these: SIGTERM, and SIGKILL after ``timeout`` seconds.

        Raises ``Internal`` where one does not end even so.
        """
        await asyncio.gather(*(self._end(container, timeout) for container in containers))

    async def end_execs(self, container: Container) -> None:
        """Kill what still runs in a container whose init process has ended, as the kernel does in a pid namespace."""
        for _ in range(2):  # twice: an exec's start under way may have become a process after the first
            for process in container.alive():
                await self.send(container, process, signal.SIGKILL)
            await _until_ended(container, KILL_SECONDS)

    async def _end(self, container: Container, timeout: float) -> None:
        if timeout > 0:
            await self.send_all(container, signal.SIGTERM)
            await _until_ended(container, timeout)
        for _ in range(2):  # twice: a start under way may have become a process after the first
            await self.send_all(container, signal.SIGKILL)
            await _until_ended(container, KILL_SECONDS)
            if not container.alive():
                return
        raise Internal(f"container {container.id}: pid {container.alive()[0].pid} does not end after SIGKILL")


def _send_directly(process: Process, number: int) -> bool:
    """Signal a process whose forkserver died, by a pidfd; false where it has ended or its pid was reused."""
    if not process.start_time:
        return False
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if proc.start_time(process.pid) != process.start_time:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


async def _until_ended(container: Container, timeout: float) -> None:
    """Wait until running processes have ended and pending starts have finished."""
    ends: list[Coroutine[Any, Any, object]] = [process.wait() for process in container.alive()]
    if any(process.state is ProcessState.STARTING for process in container.processes()):
        ends.append(_held_and_released(container.lock))
    if not ends:
        return
    pending = [asyncio.ensure_future(end) for end in ends]
    _, late = await asyncio.wait(pending, timeout=timeout)
    for waiter in late:
        waiter.cancel()


async def _held_and_released(lock: asyncio.Lock) -> None:
    async with lock:
        pass
