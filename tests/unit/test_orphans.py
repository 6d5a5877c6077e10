"""Exits where a forkserver died or hung up: none is lost, and none is taken for another."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from sandbox_api.errors import Unavailable
from supervisor.aot.cache import CacheUnusable
from supervisor.host import proc
from supervisor.ipc import forkserver_connection, reports
from supervisor.ipc.channel import HelperChannel
from supervisor.ipc.earlier_forkservers import EarlierForkservers
from supervisor.ipc.inventory import Ended
from supervisor.lifecycle import forkserver, orphans
from supervisor.lifecycle.forkserver import ForkserverManager
from supervisor.model.process import Process, ProcessState
from workers import protocol
from workers.start_request import StartRequest

from .reaping import AT, Scene, run
from .standin import PID, StandIn


@pytest.mark.parametrize("descriptors", [True, False])
def test_an_orphan_s_end_is_told_with_and_without_a_descriptor_to_watch_it_by(
    tmp_path: Path, descriptors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "LOOK_SECONDS", 0.01)
    if not descriptors:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))

    async def test(scene: Scene) -> None:
        orphan = an_orphan(scene.process("b"))
        waiting = asyncio.create_task(orphan.wait())
        scene.orphans.watch(orphan)
        scene.orphans.collect_children()
        assert not scene.ended
        os.kill(orphan.pid, signal.SIGKILL)
        assert (await waiting).status in (137, 255)  # before Linux 6.15 nobody tells
        assert await scene.acknowledged() == [2]
        assert scene.ended == ["b"]

    run(tmp_path, test)


class NoEngines:
    """Chooses nothing."""

    pids: frozenset[int] = frozenset()

    async def start(self, engines: dict[str, str]) -> None:
        pass


async def connected(scene: Scene, engines: NoEngines | None = None) -> ForkserverManager:
    """The forkserver's manager, connected to the stand-in."""
    choice = engines or NoEngines()
    manager = ForkserverManager(scene.registry, scene.forkserver, scene.exits, [], choice)  # type: ignore[arg-type]
    await manager.connect()
    return manager


def test_an_end_is_told_where_the_forkserver_that_hung_up_is_another_now(tmp_path: Path) -> None:
    """It was dying: what listened still was its socket, which closes last. The next one does not have what it ran."""

    async def test(scene: Scene) -> None:
        manager = await connected(scene)
        scene.process("a").state = ProcessState.CREATED
        orphan = an_orphan(scene.process("b"))
        waiting = asyncio.create_task(orphan.wait())
        for _ in range(2):  # watched once
            before = scene.standin.greeted
            scene.standin.hang_up()
            while scene.standin.greeted == before:
                await asyncio.sleep(0.01)
        os.kill(orphan.pid, signal.SIGKILL)
        assert (await waiting).status in (137, 255)  # before Linux 6.15 nobody tells
        assert scene.ended == ["b"]
        manager.close()

    run(tmp_path, test)


def test_a_cache_that_cannot_be_used_for_a_moment_does_not_hang_up_on_the_new_forkserver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was being started there failed, each time."""
    monkeypatch.setattr(forkserver, "RETRY_SECONDS", 0.01)

    class Unusable(NoEngines):
        times = 0

        async def start(self, engines: dict[str, str]) -> None:
            self.times += 1
            if self.times < 4:
                raise CacheUnusable("the disk is full")

    async def test(scene: Scene) -> None:
        engines = Unusable()
        manager = await connected(scene, engines)
        before = scene.standin.greeted
        scene.standin.hang_up()
        while engines.times < 4:
            await asyncio.sleep(0.01)
        assert scene.standin.greeted == before + 1
        assert scene.forkserver.connected
        manager.close()

    run(tmp_path, test)


def reports_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker of each start report that it is ready, although there is none."""

    async def read(report: int) -> tuple[bytes, bool]:
        return struct.pack("I", PID) + protocol.LOADED + protocol.READY, True

    async def undo(report: bytes) -> None:
        pass

    monkeypatch.setattr(reports, "read", read)
    monkeypatch.setattr(reports, "undo", undo)


@pytest.mark.parametrize("late", [False, True], ids=["report before the death", "report after it"])
def test_an_end_that_is_known_is_told_although_the_forkserver_died_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Not as one that nobody saw."""
    reports_that_come(monkeypatch)
    come = reports.read
    monkeypatch.setattr(ForkserverManager, "_reconnect_soon", lambda manager: None)

    async def test(scene: Scene) -> None:
        async def read(report: int) -> tuple[bytes, bool]:
            while late and scene.forkserver.connected:
                await asyncio.sleep(0.01)
            return await come(report)

        monkeypatch.setattr(reports, "read", read)
        manager = await connected(scene)
        scene.process("a").state = ProcessState.CREATED
        process = scene.process("b")
        process.state = ProcessState.STARTING
        process.pid = (await scene.forkserver.start(StartRequest(instance=2))).pid
        process.state = ProcessState.RUNNING
        assert (await process.wait()).status == 5
        manager.close()

    run(tmp_path, test)


def test_a_forkserver_that_does_not_answer_fails_what_was_asked_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts, signals and pings meanwhile are told to try again, where they waited for ever."""
    monkeypatch.setattr(forkserver_connection, "HELLO_SECONDS", 0.1)
    monkeypatch.setattr(HelperChannel, "kill", HelperChannel.close)  # the stand-in is this process

    async def test(scene: Scene) -> None:
        scene.standin.deaf = 1
        scene.standin.on_start = lambda instance: None
        joining = asyncio.create_task(scene.join_again())
        await asyncio.sleep(0)
        client = scene.forkserver
        asked = asyncio.gather(
            client.start(StartRequest(instance=2)), client.kill(1, 15), client.ping(), return_exceptions=True
        )
        await joining
        assert [type(answer) for answer in await asked] == [Unavailable] * 3

    run(tmp_path, test)


def test_a_start_is_watched_where_the_forkserver_that_hung_up_is_another_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, and nobody else would tell of its end."""
    reports_that_come(monkeypatch)
    come = reports.read
    joined = asyncio.Event()

    async def read(report: int) -> tuple[bytes, bool]:
        await joined.wait()
        return await come(report)

    monkeypatch.setattr(reports, "read", read)

    async def test(scene: Scene) -> None:
        manager = await connected(scene)
        scene.process("a").state = ProcessState.CREATED
        process = an_orphan(scene.process("b"))
        process.state = ProcessState.STARTING

        def fork_and_hang_up(instance: int) -> None:
            scene.standin.forked(instance, process.pid)
            scene.standin.hang_up()

        scene.standin.on_start = fork_and_hang_up
        start = asyncio.create_task(scene.forkserver.start(StartRequest(instance=2)))
        while not process.orphaned:
            await asyncio.sleep(0.01)
        joined.set()
        assert (await start).pid == process.pid
        process.state = ProcessState.RUNNING
        os.kill(process.pid, signal.SIGKILL)
        assert (await process.wait()).status in (137, 255)  # before Linux 6.15 nobody tells
        assert scene.ended == ["b"]
        manager.close()

    run(tmp_path, test)


def test_the_end_of_a_start_that_was_undone_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be started again."""
    reports_that_come(monkeypatch)

    async def test(scene: Scene) -> None:
        await scene.start_that_is_undone()
        await scene.join_again()
        for _ in range(2):  # by itself, and to one who joins it just then
            scene.standin.exited([Ended(2, PID, signal.SIGKILL, AT)])
            assert await scene.acknowledged() == [2]
        assert scene.ended == []
        scene.process("b").pid = PID + 1  # it is started again
        scene.standin.exited([Ended(2, PID + 1, 5 << 8, AT)])
        assert await scene.acknowledged() == [2]
        assert scene.ended == ["b"]

    run(tmp_path, test)


def test_nothing_is_kept_of_orphans_that_are_gone(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        orphan = an_orphan(scene.process("a"))
        scene.orphans.watch(orphan)
        os.kill(orphan.pid, signal.SIGKILL)
        await orphan.wait()
        for container in list(scene.registry.containers.values()):
            scene.registry.remove(container)
        assert [name for name, kept in vars(scene.orphans).items() if kept and type(kept) in (dict, set)] == []

    run(tmp_path, test)


def test_an_earlier_forkserver_that_hung_up_and_has_nothing_left_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(scene: Scene) -> None:
        earlier = EarlierForkservers(
            f"{tmp_path}/forkserver-ours.sock", lambda exits: earlier.acknowledge([each.instance for each in exits])
        )
        standin = StandIn()
        await standin.listen(f"{tmp_path}/forkserver-other.sock")
        standin.exits = [7, PID, 0, AT, -1]
        await earlier.join()
        standin.hang_up()
        async with asyncio.timeout(10):
            while earlier:
                await asyncio.sleep(0.01)

    caplog.set_level("ERROR")
    run(tmp_path, test)
    gc.collect()  # what a task raises is told when it goes
    assert "ValueError" not in caplog.text


def an_orphan(process: Process) -> Process:
    """Have it be a process that is not our child."""
    found = subprocess.run(["sh", "-c", "sleep 100 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True)
    process.pid = int(found.stdout)
    process.start_time = proc.start_time(process.pid)
    return process


def test_a_worker_whose_forkserver_died_is_reaped_as_a_child(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        scene.process("b").pid = pid
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        scene.orphans.collect_children()
        assert await scene.acknowledged() == [2]
        recorded = scene.on_record()[2]
        assert recorded is not None
        assert recorded.status == 7
        scene.orphans.collect_children()
        assert scene.ended == ["b"]

    run(tmp_path, test)
