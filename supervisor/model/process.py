"""A process of a container's: its init process, or an exec in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from sandbox_api.errors import FailedPrecondition, NotFound
from sandbox_api.interface import Exit, Stdio

from ..host.futures import fail, settle
from . import waiters


class ProcessState(StrEnum):
    """States of a process, in order."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


ALIVE = frozenset({ProcessState.RUNNING, ProcessState.PAUSED})


@dataclass(slots=True, eq=False)
class Process:
    """One process, from Create (or Exec) to Delete.

    ``instance`` is its number, unique for ever; the pid is 0 while there is none.
    """

    instance: int
    name: str
    """The container's id, and the exec's behind a slash: for messages."""
    exec_id: str
    stdio: Stdio
    state: ProcessState = ProcessState.CREATED
    pid: int = 0
    start_time: int = 0
    """When the process was started, in clock ticks since boot (proc_pid_stat(5)): with the pid it names it for good."""
    exit: Exit | None = None
    pumped: bool = False
    """The relay feeds its stdin."""
    purged: bool = False
    """An exec that goes when it ends: its client will not ask for it."""
    tier: str = ""
    """The way its code runs: interpreted, with the reason behind a colon where it cannot be compiled; at a level of
    WasmEdge's compiler, with "+image" where its module came from an image; by Wasmtime; "" before its start."""
    orphaned: int = 0
    """Its pid, once its forkserver died: its end is watched for, or known. Another start has another pid."""
    input_closed: bool = False
    """CloseIO came before its input was open: its start ends the input. It does not outlive the supervisor."""
    _waiters: list[asyncio.Future[Exit]] | None = field(default=None, repr=False)

    @property
    def engine(self) -> tuple[str, str, str]:
        """Its engine, how its code runs there, and why that is no better where it cannot be; empty before its start."""
        tier, _, reason = self.tier.partition(": ")
        by_wasmtime = tier == "wasmtime"
        return tier and ("wasmtime" if by_wasmtime else "wasmedge"), "compiled" if by_wasmtime else tier, reason

    def require(self, what: str, *states: ProcessState) -> None:
        """Raise ``FailedPrecondition`` unless it is in one of these states."""
        if self.state not in states:
            raise FailedPrecondition(f"{self.name}: cannot {what}: it is {self.state}")

    async def wait(self) -> Exit:
        """Answer when it has ended. Raises ``NotFound`` if it is deleted before it ran."""
        if self.exit is not None:
            return self.exit
        if self._waiters is None:
            self._waiters = []
        return await waiters.add(self._waiters)

    def mark_exited(self, ended: Exit) -> None:
        """Record the exit in memory, and answer all pending Waits."""
        self.state = ProcessState.STOPPED
        self.exit = ended
        for waiter in self._take_waiters():
            settle(waiter, ended)

    def forget(self) -> None:
        """Fail all pending Waits: the process is deleted."""
        for waiter in self._take_waiters():
            fail(waiter, NotFound(f"{self.name}: deleted before it was started"))

    def _take_waiters(self) -> list[asyncio.Future[Exit]]:
        taken, self._waiters = self._waiters or [], None
        return taken
