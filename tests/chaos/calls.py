"""A client's calls, and what it sees: an answer that does not come leaves it with more than one truth."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from sandbox_api.errors import DeadlineExceeded, Internal, NotFound, ResourceExhausted, Unavailable
from sandbox_api.proto import task_pb2 as pb

from ..harness.api import Api
from ..harness.daemon import Daemon
from ..harness.isulad import Isulad216, Isulad2023
from ..harness.ttrpc import Connection
from .model import Pod, Process, Shared
from .plan import steps

AWAY_SECONDS = 60.0
READS = ("State", "Wait")
"""Calls that change nothing: a client may vanish in the middle of one, and know no less."""
T = TypeVar("T")


class Lost(Exception):
    """The answer did not come: the call has happened, or not."""


class Caller:
    """Connections to a daemon that comes and goes."""

    def __init__(self, daemon: Daemon, shared: Shared, namespace: str, number: int, seed: int) -> None:
        self.name = f"client{number}"
        self.shared = shared
        self._daemon = daemon
        self._namespace = namespace
        self._number = number
        self._steps = steps(seed, number)
        self._next_step()
        self._tasks: Connection | None = None
        self._sandboxes: Api | None = None
        self._isulad: dict[str, Isulad2023 | Isulad216] = {}

    def _next_step(self) -> None:
        self._step = next(self._steps)
        self._random = random.Random(self._step.seed)
        self._whims = random.Random(f"{self._step.seed} whims")  # of reads: what was lost decides how many there are

    def _name(self, kind: str) -> str:
        """A name of this step's: a step makes one of a kind at most."""
        return f"{kind}{self._number}-{self._step.number}"

    def look(self, process: Process) -> None:
        """State, compared with what is known."""
        while True:
            try:
                answer = self._task("State", pb.StateRequest(id=process.id, exec_id=process.exec_id))
            except NotFound:
                self.shared.observe(process, None)
            except Lost:
                continue
            else:
                self.shared.observe(process, answer)  # type: ignore[arg-type]
            return

    def _look_at_pod(self, pod: Pod) -> None:
        while True:
            try:
                answer = self._on_sandbox("status", pod.id)
            except NotFound:
                phase = "absent"
            except Lost:
                continue
            else:
                phase = "ready" if answer.state == "SANDBOX_READY" else "created or notready"  # type: ignore[attr-defined]
            break
        allowed = set(pod.phases)
        if phase == "created or notready":
            if not allowed & {"created", "notready"}:
                self.shared.complain(f"{pod.id}: not ready; it can only be {sorted(allowed)}")
            pod.phases = allowed & {"created", "notready"}
            return
        if phase not in allowed:
            self.shared.complain(f"{pod.id}: {phase}; it can only be {sorted(allowed)}")
        pod.phases = {phase}

    def _task(self, method: str, request: Message) -> Message:
        def call() -> Message:
            if self._tasks is None:
                self._tasks = Connection(self._daemon.task_socket, self._namespace)
            if method in READS and self._whims.random() < 0.03:
                self.shared.count("vanished")
                with contextlib.suppress(OSError):
                    self._tasks.send(method, request)
                self._hang_up()
                self._tasks = Connection(self._daemon.task_socket, self._namespace)
            return self._tasks.call(method, request)

        return self._call(method, call)

    def _on_sandbox(self, method: str, *arguments: object) -> object:
        def call() -> object:
            if self._sandboxes is None:
                self._sandboxes = Api(self._daemon.listen, self._namespace)
            return getattr(self._sandboxes, method)(*arguments)

        return self._call(f"sandbox {method}", call)

    def _hand(self, dialect: str, method: str, *arguments: object, **fields: object) -> object:
        """A call of iSulad's, in one of the dialects that can hand containers over."""

        def call() -> object:
            if dialect not in self._isulad:
                kind = Isulad2023 if dialect == "2023" else Isulad216
                self._isulad[dialect] = kind(self._daemon, self._namespace)
            return getattr(self._isulad[dialect], method)(*arguments, **fields)

        return self._call(f"{method} ({dialect})", call)

    def _call(self, what: str, call: Callable[[], T]) -> T:
        self.shared.count("operations")
        self.shared.count(what)
        begun = time.monotonic()
        try:
            return call()
        except (TimeoutError, DeadlineExceeded):
            self.shared.complain(f"{self.name}: {what}: no answer after {time.monotonic() - begun:.0f} s")
        except (ResourceExhausted, Internal):
            if not self.shared.was_short(begun):
                raise
            self.shared.count("refused")
            time.sleep(0.02)
            raise Lost(what) from None
        except (EOFError, OSError, Unavailable):
            pass
        self.shared.count("answers lost")
        self._hang_up()
        self._await_return()
        raise Lost(what)

    def _hang_up(self) -> None:
        if self._tasks is not None:
            self._tasks.close()
        if self._sandboxes is not None:
            self._sandboxes.close()
        for isulad in self._isulad.values():
            isulad.channel.close()
        self._tasks = self._sandboxes = None
        self._isulad.clear()

    def _await_return(self) -> None:
        """Wait until the daemon serves again."""
        deadline = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                Connection(self._daemon.listen).close()
                self._tasks = Connection(self._daemon.task_socket, self._namespace)
                return
            time.sleep(0.02)
        raise TimeoutError(f"the daemon did not return within {AWAY_SECONDS:g} s")
