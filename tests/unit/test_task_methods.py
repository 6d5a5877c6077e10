"""The Task API's table of methods: what differs by service and caller."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sandbox_api import calls
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.task_methods import TaskMethods

from .parts import NS, Parts

V1, V2 = "io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics"


@pytest.mark.parametrize(
    ("service", "namespace", "url"),
    [
        ("containerd.task.v2.Task", "", V1),  # iSulad's shim library reads nothing else
        ("containerd.task.v2.Task", NS, V2),
        ("containerd.task.v3.Task", "", V2),
        ("containerd.task.v3.Task", NS, V2),
    ],
)
def test_stats_on_a_host_with_control_groups_version_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str, namespace: str, url: str
) -> None:
    monkeypatch.setattr(calls, "DEFAULT_NAMESPACE", NS)

    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await parts.create("c")
        method = TaskMethods(parts.tasks, cgroup_version=2).table()[service, "Stats"]
        answer = await calls.run(method, namespace, pb.StatsRequest(id="c").SerializeToString())
        assert pb.StatsResponse.FromString(answer).stats.type_url == url

    asyncio.run(test())
