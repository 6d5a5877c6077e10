"""Notes about containers that do not end: a daemon that starts has others to serve."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from supervisor.host import proc
from supervisor.model.process import ProcessState
from supervisor.services import given_up

from .parts import NS, Parts

CRI = "k8s.io"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_up, "_END_SECONDS", 0.1)


async def running(parts: Parts, namespace: str, name: str, pid: int) -> None:
    """A container whose end nobody tells of."""
    await parts.create(name, namespace)
    init = parts.registry.container(namespace, name).init
    init.state, init.pid, init.start_time = ProcessState.RUNNING, pid, proc.start_time(pid)


def test_a_container_that_does_not_end_is_tried_again_later(tmp_path: Path) -> None:
    async def test(pid: int) -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await running(parts, NS, "c", pid)
        notes = tmp_path / "given-up"
        notes.mkdir()
        (note := notes / "c.note").write_text(f"{NS}\nc\n")
        async with asyncio.timeout(10):
            await given_up.GivenUp(notes, parts.registry, parts.tasks, parts.sandboxes).obey()
        assert note.exists()

    with subprocess.Popen(["sleep", "1000"]) as process:
        asyncio.run(test(process.pid))
        assert process.wait() == -signal.SIGKILL


def test_one_that_does_not_end_keeps_no_other_from_its_end(tmp_path: Path) -> None:
    async def test(pids: list[int]) -> None:
        parts = Parts(tmp_path)
        await parts.pod(CRI)
        for pid in pids:
            await running(parts, CRI, f"c{pid}", pid)
        with socket.socket(socket.AF_UNIX) as containerd:
            containerd.bind(str(tmp_path / "containerd.sock"))
            containerd.listen()
            ending = given_up.GivenUp(
                tmp_path / "given-up", parts.registry, parts.tasks, parts.sandboxes, str(tmp_path / "containerd.sock")
            )
            async with asyncio.timeout(10):
                await ending.end_forgotten(connections_lost=True)

    with subprocess.Popen(["sleep", "1000"]) as one, subprocess.Popen(["sleep", "1000"]) as other:
        try:
            asyncio.run(test([one.pid, other.pid]))
            assert [each.wait(5) for each in (one, other)] == [-signal.SIGKILL] * 2
        finally:
            other.kill()
