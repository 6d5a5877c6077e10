"""Values from the state file's rows. SQLite stores a value of any kind in any column, and damage makes use of it.

Each raises ``ValueError``, ``KeyError`` or ``TypeError`` where a row was not written like this.
"""

from __future__ import annotations

import json
from typing import Any

from sandbox_api.interface import Exit, Stdio

from ..model.process import Process, ProcessState
from ..model.sandbox import Sandbox, SandboxState

SANDBOX = "namespace, id, netns, labels, state, created_at, exited_at, pids"
PROCESS = (
    "namespace, container_id, instance, exec_id, state, pid, start_time, stdin, stdout, stderr, terminal, pumped,"
    " purged, tier, exit_status, exited_at"
)
"""Columns, in the order in which they are read."""

_NUMBER = (int, type(None))
_SANDBOX = (*[str] * 5, int, int, str)
_PROCESS = (str, str, int, str, str, int, int, str, str, str, int, int, int, str, _NUMBER, _NUMBER)
"""Kinds of their values."""


def sandbox(row: tuple[Any, ...]) -> Sandbox:
    """A sandbox from its row: ``SANDBOX``."""
    namespace, name, netns, labels, state, made, ended, pids = checked(row, *_SANDBOX)
    return Sandbox(namespace, name, netns, _labels(labels), SandboxState(state), made, ended, pids=_pids(pids))


def process(row: tuple[Any, ...]) -> Process:
    """A process from its row: ``PROCESS``."""
    _, container_id, instance, exec_id, state, pid, start_time, *rest = checked(row, *_PROCESS)
    stdin, stdout, stderr, terminal, pumped, purged, tier, status, at = rest
    return Process(
        instance,
        f"{container_id}/{exec_id}" if exec_id else container_id,
        exec_id,
        Stdio(stdin, stdout, stderr, bool(terminal)),
        ProcessState(state),
        pid,
        start_time,
        None if status is None else Exit(status, at or 0),
        bool(pumped),
        bool(purged),
        tier,
    )


def checked(row: tuple[Any, ...], *kinds: Any) -> tuple[Any, ...]:
    """A row whose values are of these kinds."""
    if not all(map(isinstance, row, kinds)):
        raise TypeError(f"a row has {', '.join(type(value).__name__ for value in row)} in it")
    return row


def texts(values: Any) -> tuple[str, ...]:
    """A list of strings, as JSON has it."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("there is no list of strings where one should be")
    return tuple(values)


def _labels(text: str) -> dict[str, str]:
    labels = json.loads(text)
    if not isinstance(labels, dict):
        raise TypeError(f"labels are a JSON {type(labels).__name__}")
    texts(list(labels.values()))
    return labels


def _pids(text: str) -> list[int]:
    pids = json.loads(text)
    if not isinstance(pids, list) or not all(type(pid) is int for pid in pids):
        raise TypeError("pids are no list of numbers")
    return pids
