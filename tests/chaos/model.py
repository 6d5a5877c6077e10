"""The state a sandboxer must be in, whatever dies: kept by its clients, compared with what it answers."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sandbox_api.proto import task_pb2 as pb

from ..harness.ttrpc import Connection

UNKNOWN = 255
"""Exit status that stands for one nobody can know."""


class Phase(StrEnum):
    ABSENT = "ABSENT"
    CREATED = "CREATED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"


ALIVE = frozenset({Phase.RUNNING, Phase.PAUSED})


@dataclass
class Process:
    """A client's knowledge of one process: more than one phase where an answer was lost."""

    id: str
    exec_id: str
    ends_with: int | None
    """The status with which it ends by itself; None where it runs until it is killed."""
    phases: set[Phase] = field(default_factory=lambda: {Phase.ABSENT})
    endings: set[int] = field(default_factory=set)
    """Statuses that may come out, by what was done to it so far."""
    status: int | None = None
    terminal: bool = False
    """It hangs up when the relay dies."""
    init: Process | None = None
    """For an exec: the process whose end is its end, too."""
    pid: int = 0
    started: float = 0.0
    ending: bool = False
    """It was sent what it does not survive, and the answer said so."""

    @property
    def name(self) -> str:
        return f"{self.id}/{self.exec_id}" if self.exec_id else self.id

    def now(self, *phases: Phase) -> None:
        """This is certain."""
        self.phases = set(phases)

    def maybe(self, *phases: Phase) -> None:
        """This may have happened, or not."""
        self.phases |= set(phases)

    def may_end_with(self, *statuses: int) -> None:
        self.endings.update(statuses)

    def is_(self, *phases: Phase) -> bool:
        return self.phases <= set(phases)

    @property
    def may_have_ended(self) -> bool:
        return bool(self.endings) and bool(self.phases & (ALIVE | {Phase.STOPPED}))


@dataclass
class Container:
    """A container of a client's: its processes by exec id, "" for the first."""

    pod: str
    bundle: Path
    processes: dict[str, Process]
    waiter: Connection | None = None
    """A Wait for its first process that is to be answered through every restart."""
    handed: bool = False
    """It was handed over before its Create."""

    @property
    def init(self) -> Process:
        return self.processes[""]


@dataclass
class Pod:
    """A sandbox of a client's."""

    id: str
    phases: set[str]
    dialect: str
    """In which containers are handed over."""
    containers: dict[str, Container] = field(default_factory=dict)
    handed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The list of them, as dialect v2 has it."""


@dataclass
class Shared:
    """The clients' common state: the gate, the counts, and what was found wrong."""

    stop: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    blind: list[float] = field(default_factory=list)
    """When a forkserver died whose workers nobody else was the parent of: what ended just then nobody can know."""
    hung_up: list[float] = field(default_factory=list)
    """When a relay died: the processes on its terminals were sent SIGHUP."""
    shortages: list[tuple[float, float]] = field(default_factory=list)
    """When disk or memory ran out, and when that was over: calls may be refused, and say so."""
    _condition: threading.Condition = field(default_factory=threading.Condition)
    _acting: int = 0
    _audit: bool = False

    def count(self, what: str, number: int = 1) -> None:
        with self._condition:
            self.counts[what] += number

    def complain(self, text: str) -> None:
        with self._condition:
            self.wrong.append(text)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """A client is in the middle of something."""
        with self._condition:
            self._condition.wait_for(lambda: not self._audit)
            self._acting += 1
        try:
            yield
        finally:
            with self._condition:
                self._acting -= 1
                self._condition.notify_all()

    @contextmanager
    def quiet(self, seconds: float = 120) -> Iterator[None]:
        """No client is in the middle of anything."""
        with self._condition:
            self._audit = True
            if not self._condition.wait_for(lambda: not self._acting, seconds):
                self.wrong.append(f"a call did not end within {seconds:g} s")
        try:
            yield
        finally:
            with self._condition:
                self._audit = False
                self._condition.notify_all()

    @contextmanager
    def short(self) -> Iterator[None]:
        """Disk or memory runs out meanwhile."""
        began = time.monotonic()
        self.shortages.append((began, float("inf")))
        try:
            yield
        finally:
            self.shortages[-1] = began, time.monotonic()

    def was_short(self, since: float) -> bool:
        """Whether anything ran out since then."""
        return any(end >= since for _, end in self.shortages)

    def may_be_unknown(self, process: Process) -> bool:
        return any(at >= process.started for at in self.blind)

    def hear_of_others(self, process: Process) -> None:
        """Take account of others' ends: a relay's for those on its terminals, the init process's for execs."""
        first = process.init or process
        if first.terminal and any(at >= first.started for at in self.hung_up):
            first.may_end_with(128 + signal.SIGHUP)
        if process.init and process.init.endings:
            process.may_end_with(137)

    def observe(self, process: Process, answer: pb.StateResponse | None) -> None:
        """Compare an answer of State (None: there is no such process) with what is known."""
        if answer is None:
            if Phase.ABSENT not in process.phases:
                self.complain(f"{process.name}: lost; it was {sorted(process.phases)}")
            process.now(Phase.ABSENT)
            return
        self.hear_of_others(process)
        phase = Phase(pb.Status.Name(answer.status))
        allowed = set(process.phases)
        if process.may_have_ended or (process.phases & ALIVE and self.may_be_unknown(process)):
            allowed.add(Phase.STOPPED)
        if phase not in allowed:
            self.complain(
                f"{process.name}: {phase} status={answer.exit_status} pid={answer.pid}; it can only be "
                f"{sorted(allowed)}, endings {sorted(process.endings)}"
            )
        if phase in ALIVE:
            if process.pid and answer.pid != process.pid:
                self.complain(f"{process.name}: pid {answer.pid}, and it was {process.pid}")
            process.pid = answer.pid
            process.started = process.started or time.monotonic()
            if process.ends_with is not None:
                process.may_end_with(process.ends_with)
        if phase is Phase.STOPPED:
            self.ended(process, answer.exit_status)
        process.now(phase)

    def ended(self, process: Process, status: int) -> None:
        """A status was told: by Wait, State or Delete."""
        if process.status is not None:
            if status != process.status:
                self.complain(f"{process.name}: status {status}, and it was {process.status}")
            return
        self.hear_of_others(process)
        if process.ends_with is not None and process.phases & ALIVE:
            process.may_end_with(process.ends_with)
        self.count("exits told")
        if status == UNKNOWN and UNKNOWN not in process.endings and self.may_be_unknown(process):
            self.count("statuses nobody can know")
        elif status not in process.endings:
            self.complain(f"{process.name}: status {status}; it can only be {sorted(process.endings)}")
        process.status = status
        process.now(Phase.STOPPED)
