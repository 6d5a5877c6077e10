"""The Sandbox API's messages in both dialects: any bytes are a call on ``SandboxApi``, or an error of the domain.

The first byte is the method's number below. Which dialect it is does not change when a request is encoded again.
"""

from __future__ import annotations

from typing import Any

from sandbox_api import dialects
from sandbox_api.dialects import detect, dialect_2023, v2
from sandbox_api.dialects.dialect import Host
from sandbox_api.errors import InvalidArgument
from sandbox_api.interface import Exit, Platform, SandboxInfo, Usage
from sandbox_api.proto import controller_2023_pb2 as old
from sandbox_api.proto import controller_pb2 as new

from ..coroutines import finish
from ..recorder import Recorder
from ..values import check, check_text

METHODS = (
    *("Create", "Start", "Platform", "Prepare", "Purge", "UpdateResources", "Update", "Stop", "Wait", "Status"),
    *("Shutdown", "Metrics"),
)
"""A new one comes last: inputs in the tree name them by number."""
assert set(METHODS) == set(dialects.METHODS)

_INFO = SandboxInfo("id", True, 7, 1, 0, {"a": "b"}, "/run/task.sock", {"c": "d"})
_ANSWERS: dict[str, Any] = {
    **{"start": _INFO, "status": _INFO, "platform": Platform("linux", "amd64"), "wait": Exit(0, 1)},
    **{"metrics": Usage(1), "prepare": "/bundle"},
}


_sandboxes = Recorder(_ANSWERS)
_host = Host(_sandboxes, 2)  # type: ignore[arg-type]


def run(data: bytes) -> None:
    if not data:
        return
    name, payload = METHODS[data[0] % len(METHODS)], data[1:]
    first = _called(name, payload)
    if first is None:
        return
    for call in first:
        check(call)
    try:
        fields = detect.fields(payload)
    except InvalidArgument:
        assert name not in dialect_2023.DIALECT.methods or name not in v2.DIALECT.methods
        return
    is_old = dialects.speaking(name, payload) is dialect_2023.DIALECT.methods.get(name)
    assert is_old or dialects.speaking(name, payload) is v2.DIALECT.methods[name]
    again = _encoded_again(old if is_old else new, name, payload)
    if {2, 6, 10} & fields.keys() <= detect.fields(again).keys():  # what is empty is left out
        assert _called(name, again) == first


def _called(name: str, payload: bytes) -> list[tuple[Any, ...]] | None:
    _sandboxes.calls = []
    try:
        answer = finish(dialects.speaking(name, payload)(_host, "default", payload))
        assert isinstance(answer, bytes)
    except InvalidArgument as error:
        check_text(error)
        return None
    return _sandboxes.calls


def _encoded_again(messages: Any, name: str, payload: bytes) -> bytes:
    kinds = (f"Controller{name}Request", f"{name}Request")
    kind = next(getattr(messages, each) for each in kinds if hasattr(messages, each))
    message = kind.FromString(payload)
    message.DiscardUnknownFields()
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded
