"""Messages that would keep every client waiting while they are read, and mounts that no call can take."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sandbox_api.convert import MAX_MOUNTS, mounts
from sandbox_api.dialects import detect, extension
from sandbox_api.errors import InvalidArgument
from sandbox_api.proto import task_pb2, types_pb2
from supervisor.cgroups.resources import Resources
from supervisor.oci import spec

from . import specs

SECONDS = 0.25  # of processor time; each took 0.7 to 3 s


@pytest.mark.parametrize("field", [b"\x20\1", b"\x22\0"])
def test_fields_without_end(field: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(InvalidArgument, match="more than 32768 fields"):
        detect.fields(field * (2 << 20))
    assert time.thread_time() - began < SECONDS


def test_mounts_without_end() -> None:
    request = task_pb2.CreateTaskRequest.FromString(b"\x1a\0" * (1 << 20))
    began = time.thread_time()
    with pytest.raises(InvalidArgument, match="rootfs has 1048576 entries; 128 is the most"):
        mounts(request.rootfs)
    assert time.thread_time() - began < SECONDS
    assert len(mounts(request.rootfs[:MAX_MOUNTS])) == MAX_MOUNTS


@pytest.mark.parametrize(
    "wrong", [{"type": "bi\0nd"}, {"source": "/a\0b"}, {"target": "/\0"}, {"options": ["ro", "size=1\0"]}]
)
def test_a_mount_that_holds_a_nul(wrong: dict[str, Any]) -> None:
    """The kernel's calls read as far as it: of a path that is another, and Python's raise what nobody expects."""
    with pytest.raises(InvalidArgument, match="holds a NUL"):
        mounts([types_pb2.Mount(**{"type": "bind", "source": "/a", **wrong})])
    tasks = {"tasks": [{"task_id": "a", "rootfs": [{"type": "bind", "source": "/a", **wrong}]}]}
    with pytest.raises(InvalidArgument, match="holds a NUL"):
        extension.parse(json.dumps(tasks).encode())


@pytest.mark.parametrize(
    ("tasks", "what"),
    [
        ([{"task_id": str(number)} for number in range(4097)], "4097 entries; 4096 is the most"),
        ([{"task_id": "a", "processes": [{"exec_id": str(number)} for number in range(4096)]}], "4097 entries"),
        ([{"task_id": "a", "rootfs": [{}] * 129}], "rootfs has 129 entries; 128 is the most"),
    ],
)
def test_lists_of_containers_without_end(tasks: list[Any], what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        extension.parse(json.dumps({"tasks": tasks}).encode())


def test_limits_without_end() -> None:
    began = time.thread_time()
    with pytest.raises(InvalidArgument, match="unified has 60000 entries; 256 is the most"):
        Resources.parse({"unified": {f"a.b{number}": "1" for number in range(60_000)}})
    with pytest.raises(InvalidArgument, match="is not a list as 0-3,7"):
        Resources.parse({"cpu": {"cpus": "0-1," * 250_000 + "0"}})
    assert time.thread_time() - began < SECONDS


def test_capabilities() -> None:
    asked = {"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN"], "others": ["CAP_SYS_BOOT"], "ambient": ["CAP_SYS_TIME"]}
    found = spec.parse(specs.config({"capabilities": asked}))
    assert found.added_capabilities == ("CAP_SYS_ADMIN", "CAP_SYS_TIME")
    with pytest.raises(InvalidArgument, match=r"capabilities\.permitted has 257 entries; 256 is the most"):
        spec.parse(specs.config({"capabilities": {"permitted": ["CAP_CHOWN"] * 257}}))
