"""The reaper: every exit is on record before it is acknowledged, is told once, and is acknowledged in the end."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from sandbox_api.interface import Exit, Stdio
from supervisor.ipc.inventory import Ended
from supervisor.lifecycle import execs
from supervisor.lifecycle.exits import exit_kind, exit_status
from supervisor.model.process import Process, ProcessState
from supervisor.state import retry

from .reaping import AT, Scene, run


@pytest.mark.parametrize(
    ("wait_status", "call", "kind"),
    [
        (0, -1, "zero"),
        (7 << 8, -1, "nonzero"),
        (134 << 8, -1, "trap"),
        (9, -1, "signal"),
        (31, 165, "forbidden_call"),
    ],
)
def test_kinds_of_exits(wait_status: int, call: int, kind: str) -> None:
    assert exit_kind(Ended(1, 2, wait_status, AT, call)) == kind


@pytest.mark.parametrize(
    ("wait_status", "status"),
    [
        (0, 0),
        (1 << 8, 1),
        (255 << 8, 255),
        (134 << 8, 134),
        (signal.SIGTERM, 143),
        (signal.SIGKILL, 137),
        (signal.SIGSEGV | 0x80, 139),  # with a core dump
        (64, 192),
    ],
)
def test_a_status_as_waitpid_tells_it(wait_status: int, status: int) -> None:
    assert exit_status(wait_status) == status


def test_an_exit_is_recorded_and_acknowledged_and_told(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        waiting = asyncio.create_task(scene.process("a").wait())
        scene.forkserver.exited([Ended(1, 70, 3 << 8, AT)])
        assert await scene.acknowledged() == [1]
        assert scene.on_record() == {1: Exit(3, AT), 2: None}
        assert await waiting == Exit(3, AT)
        assert scene.ended == ["a"]
        assert scene.process("a").state is ProcessState.STOPPED
        assert scene.process("b").state is ProcessState.RUNNING

    run(tmp_path, test)


def test_many_at_once(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.forkserver.exited([Ended(2, 71, signal.SIGKILL, AT), Ended(1, 70, 0, AT + 1)])
        assert await scene.acknowledged() == [2, 1]
        assert scene.ended == ["b", "a"]
        assert scene.on_record() == {1: Exit(0, AT + 1), 2: Exit(137, AT)}

    run(tmp_path, test)


def test_more_execs_that_end_at_once_than_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told, and only then the oldest are deleted."""
    monkeypatch.setattr(execs, "KEPT_EXECS", 2)

    async def test(scene: Scene) -> None:
        container = scene.registry.container("ns", "a")
        added = [Process(0, f"a/{i}", str(i), Stdio(), ProcessState.RUNNING) for i in range(5)]
        for process in added:
            scene.store.add_process(container, process, b"{}")
            scene.registry.add_exec(container, process)
        waiting = [asyncio.create_task(process.wait()) for process in added]
        await asyncio.sleep(0)
        scene.forkserver.exited([Ended(process.instance, 80, 0, AT + i) for i, process in enumerate(added)])
        assert await asyncio.gather(*waiting) == [Exit(0, AT + i) for i in range(len(added))]
        assert scene.ended == ["a"] * len(added)
        assert list(container.execs or {}) == [process.exec_id for process in added[3:]]

    run(tmp_path, test)


def test_an_exec_that_is_being_started_ends_with_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(scene: Scene) -> None:
        container = scene.registry.container("ns", "a")
        starting = Process(0, "a/e", "e", Stdio())
        scene.store.add_process(container, starting, b"")
        scene.registry.add_exec(container, starting)
        killed = asyncio.Event()

        async def kill(instance: int, number: int) -> None:
            assert (instance, number) == (starting.instance, signal.SIGKILL)
            starting.mark_exited(Exit(128 + number, AT))
            killed.set()

        monkeypatch.setattr(scene.forkserver, "kill", kill)
        async with container.lock:  # as Start has it
            starting.state = ProcessState.STARTING
            scene.forkserver.exited([Ended(1, 70, 0, AT)])
            assert await scene.acknowledged() == [1]
            await asyncio.sleep(0)  # its execs are looked at: there is nothing to kill yet
            starting.state = ProcessState.RUNNING
        await asyncio.wait_for(killed.wait(), 5)

    run(tmp_path, test)


def test_the_first_exit_told_is_the_one(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        for told in ([Ended(1, 70, 0, AT), Ended(1, 70, 9, AT + 1)], [Ended(1, 70, 9, AT + 2)]):
            scene.forkserver.exited(told)
            assert set(await scene.acknowledged()) == {1}
        assert scene.ended == ["a"]
        assert scene.on_record()[1] == Exit(0, AT)

    run(tmp_path, test)


def test_an_exit_of_nobody_s_is_acknowledged(tmp_path: Path) -> None:
    """Or the forkserver would keep it, and tell it, for ever."""

    async def test(scene: Scene) -> None:
        scene.forkserver.exited([Ended(99, 70, 0, AT)])
        assert await scene.acknowledged() == [99]
        assert scene.ended == []

    run(tmp_path, test)


def test_an_exit_that_cannot_be_recorded_is_kept_back_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0)

    async def test(scene: Scene) -> None:
        waiting = asyncio.create_task(scene.process("a").wait())
        with scene.disk.full():
            scene.exits.record([Ended(1, 70, 3 << 8, AT)])
            assert scene.process("a").state is ProcessState.RUNNING
            assert scene.process("a").exit is None
            scene.forkserver.acknowledge([12345])
            scene.exits.record([Ended(1, 70, 255 << 8, AT + 1)])  # its forkserver died, and nobody knows how it ended
            assert await scene.acknowledged() == [12345]  # and not the exit's, which would have come first
            assert not waiting.done()
        assert set(await scene.acknowledged()) == {1}
        assert scene.on_record() == {1: Exit(3, AT), 2: None}
        assert await waiting == Exit(3, AT)
        assert scene.ended == ["a"]

    run(tmp_path, test)
