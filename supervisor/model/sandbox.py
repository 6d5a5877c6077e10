"""A pod sandbox: it has no process of its own, only a network namespace, labels, and containers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from sandbox_api.errors import FailedPrecondition, NotFound
from sandbox_api.interface import Exit

from ..host.futures import fail, settle
from . import waiters
from .container import Container


class SandboxState(StrEnum):
    """States of a sandbox, in order."""

    CREATED = "created"
    READY = "ready"
    NOTREADY = "notready"


@dataclass(slots=True, eq=False)
class Sandbox:
    """One sandbox, from Create to Shutdown."""

    namespace: str
    id: str
    netns: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    state: SandboxState = SandboxState.CREATED
    created_at: int = 0
    exited_at: int = 0
    pids: list[int] = field(default_factory=list)
    """Pids that Start and Status answered for it: each was a supervisor's. Specs name network namespaces by them."""
    containers: dict[str, Container] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by start, stop and shutdown."""
    stopping: bool = False
    """Its containers are being ended: no container is created or started in it."""
    _waiters: list[asyncio.Future[Exit]] = field(default_factory=list, repr=False)

    def require(self, what: str, *states: SandboxState) -> None:
        """Raise ``FailedPrecondition`` unless it is in one of these states."""
        if self.stopping or self.state not in states:
            state = "stopping" if self.stopping and self.state is not SandboxState.NOTREADY else self.state
            raise FailedPrecondition(f"sandbox {self.id}: cannot {what}: it is {state}")

    def wait(self) -> asyncio.Future[Exit]:
        """Done when it has stopped. No coroutine: thousands wait."""
        if self.state is not SandboxState.NOTREADY:
            return waiters.add(self._waiters)
        waiter: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        waiter.set_result(self.exit)
        return waiter

    @property
    def exit(self) -> Exit:
        """Its end: a sandbox has no status of its own but 0."""
        return Exit(0, self.exited_at)

    def end(self, at: int) -> None:
        """Mark it stopped, and answer all pending Waits."""
        self.state = SandboxState.NOTREADY
        self.exited_at = at
        for waiter in self._take_waiters():
            settle(waiter, self.exit)

    def forget(self) -> None:
        """Fail all pending Waits: the sandbox is shut down."""
        for waiter in self._take_waiters():
            fail(waiter, NotFound(f"sandbox {self.id}: shut down"))

    def _take_waiters(self) -> list[asyncio.Future[Exit]]:
        taken, self._waiters = self._waiters, []
        return taken
