"""The Task API's messages: any bytes are a call on ``TaskApi`` with good values, or an error of the domain.

The first byte is the method's number below.
"""

from __future__ import annotations

from typing import Any

from sandbox_api.errors import SandboxerError
from sandbox_api.interface import Connection, Exit, Stdio, TaskInfo, TaskStatus, Usage
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.task_methods import V2, V3, TaskMethods
from supervisor.oci import streams

from ..coroutines import finish
from ..recorder import Recorder
from ..values import check, check_text

METHODS = (
    *("Create", "Wait", "State", "Kill", "Delete", "Pids", "Connect", "Stats", "CloseIO", "Exec", "ResizePty"),
    *("Pause", "Resume", "Update", "Shutdown", "Checkpoint", "Start"),
)
"""A new one comes last: inputs in the tree name them by number."""

_REQUESTS: dict[str, Any] = {
    "Create": pb.CreateTaskRequest,
    "Delete": pb.DeleteRequest,
    "Exec": pb.ExecProcessRequest,
    "Start": pb.StartRequest,
    "Update": pb.UpdateTaskRequest,
}
_INFO = TaskInfo("id", "", "/bundle", 7, TaskStatus.RUNNING, Stdio(), Exit(3, 1_700_000_000_123_456_789))
_ANSWERS: dict[str, Any] = {
    **{"create": 0, "start": 7, "wait": Exit(255, 1), "state": _INFO, "delete": _INFO, "pids": [7, 8]},
    **{"connect": Connection(1, 7, "v"), "stats": Usage(1, memory=1 << 40)},
}


_tasks = Recorder(_ANSWERS)
_table = TaskMethods(_tasks, 2).table()  # type: ignore[arg-type]
assert {name for _, name in _table} == set(METHODS)


def run(data: bytes) -> None:
    if not data:
        return
    name = METHODS[data[0] % len(METHODS)]
    first = _called(V2, name, data[1:])
    assert [call[:3] for call in _called(V3, name, data[1:])] == [call[:3] for call in first]
    for call in first:
        if call[0] == "refused":
            return
        check(call)
        for each in call:
            stdio = each if isinstance(each, Stdio) else getattr(each, "stdio", None)
            if stdio is not None:
                _refused(streams.check, stdio)
    if name in _REQUESTS:
        again = _REQUESTS[name].FromString(data[1:]).SerializeToString()
        assert _called(V2, name, again) == first


def _called(service: str, name: str, payload: bytes) -> list[tuple[Any, ...]]:
    _tasks.calls = []
    try:
        answer = finish(_table[service, name].call("", payload))
        assert isinstance(answer, bytes)
    except SandboxerError as error:
        check_text(error)
        return [("refused", type(error))]
    return _tasks.calls


def _refused(call: Any, *args: Any) -> None:
    try:
        call(*args)
    except SandboxerError:
        pass
