"""The reaper: every exit is on record before it is acknowledged, is told once, and is acknowledged in the end."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf.message import Message

from sandbox_api.errors import Unavailable
from sandbox_api.events import Publisher
from sandbox_api.interface import Exit, NewSandbox, Stdio
from sandbox_api.proto import events_pb2
from supervisor.host import proc
from supervisor.ipc import reports
from supervisor.ipc.earlier_forkservers import EarlierForkservers
from supervisor.ipc.forkserver import ForkserverClient
from supervisor.ipc.inventory import Ended
from supervisor.ipc.logger import LoggerClient
from supervisor.lifecycle import orphans
from supervisor.lifecycle.events import TaskEvents
from supervisor.lifecycle.execs import Execs
from supervisor.lifecycle.exits import ExitRecorder, exit_kind, exit_status
from supervisor.lifecycle.forkserver import ForkserverManager
from supervisor.lifecycle.orphans import Orphans
from supervisor.lifecycle.signals import Signals
from supervisor.model.container import Container
from supervisor.model.process import Process, ProcessState
from supervisor.model.registry import Registry
from supervisor.model.sandbox import Sandbox
from supervisor.oci.rootfs import MountPlan
from supervisor.state import retry
from supervisor.state.store import Recorded, Store
from workers import protocol
from workers.greeting import Filters
from workers.start_request import StartRequest

from .disk import Disk, disk
from .standin import PID, StandIn

AT = 1_700_000_000_000_000_000


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


class Published(Publisher):
    """Keeps the events that would be forwarded."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.events: list[Message] = []

    def publish(self, namespace: str, topic: str, event: Message, at: int) -> None:
        self.events.append(event)


class Scene:
    """An exit recorder with two running processes, instances 1 and 2, and a forkserver."""

    def __init__(self, small: Disk) -> None:
        self.disk = small
        self.path = f"{small.folder}/state.db"
        self.store = Store(self.path)
        self.registry = Registry()
        sandbox = self.registry.sandboxes["ns", "pod"] = Sandbox("ns", "pod")
        self.store.add_sandbox(sandbox, NewSandbox("pod"))
        for name in ("a", "b"):
            container = Container("ns", name, "pod", "/bundle", Process(0, name, "", Stdio()))
            self.store.add_container(container, Recorded(b"", MountPlan("/")), "")
            container.init.state = ProcessState.RUNNING
            self.store.update_process(container.init)
            self.registry.add(sandbox, container)
        self.standin = StandIn()
        self.published = Published()
        self.forkserver = ForkserverClient(f"{small.folder}/forkserver.sock", Filters())
        signals = Signals(self.store, self.forkserver)
        logger = LoggerClient(f"{small.folder}/logger.sock", Path(small.folder) / "logs")
        events = TaskEvents(self.published)
        execs = Execs(self.registry, self.store, events)
        self.exits = ExitRecorder(self.registry, self.store, self.forkserver, events, signals, execs, logger)
        self.orphans = Orphans(self.registry, self.forkserver)

    async def join(self) -> None:
        await self.standin.listen(f"{self.disk.folder}/forkserver.sock")
        await self.join_again()

    async def join_again(self) -> None:
        await self.forkserver.connect(self.exits.record, lambda: None)

    @property
    def ended(self) -> list[str]:
        """Containers whose exits were published, in order."""
        return [event.container_id for event in self.published.events if isinstance(event, events_pb2.TaskExit)]

    def process(self, name: str) -> Process:
        return self.registry.container("ns", name).init

    async def acknowledged(self) -> list[int]:
        """The next exits that the forkserver may forget."""
        return list(await self.standin.acknowledged.get())

    def on_record(self) -> dict[int, Exit | None]:
        """As a supervisor that begins just now would read it."""
        store = Store(self.path)
        try:
            return {container.init.instance: container.init.exit for container, *_ in store.containers()}
        finally:
            store.close()


def run(folder: Path, test: Callable[[Scene], Awaitable[None]]) -> None:
    async def main(small: Disk) -> None:
        scene = Scene(small)
        async with asyncio.timeout(20):
            await scene.join()
            await test(scene)
        scene.forkserver.close()
        scene.store.close()

    with disk(folder / "disk") as small:
        asyncio.run(main(small))


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


def test_an_end_is_told_where_the_forkserver_that_hung_up_is_another_now(tmp_path: Path) -> None:
    """It was dying: what listened still was its socket, which closes last. The next one does not have what it ran."""

    async def test(scene: Scene) -> None:
        manager = ForkserverManager(scene.registry, scene.forkserver, scene.exits, [], NoEngines())  # type: ignore[arg-type]
        await manager.connect()
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


def reports_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker of each start report that it is ready, although there is none."""

    async def read(report: int) -> tuple[bytes, bool]:
        return struct.pack("I", PID) + protocol.LOADED + protocol.READY, True

    async def undo(report: bytes) -> None:
        pass

    monkeypatch.setattr(reports, "read", read)
    monkeypatch.setattr(reports, "undo", undo)


def test_an_end_that_is_known_is_told_although_the_forkserver_died_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as one that nobody saw."""
    reports_that_come(monkeypatch)
    monkeypatch.setattr(ForkserverManager, "_reconnect_soon", lambda manager: None)

    async def test(scene: Scene) -> None:
        manager = ForkserverManager(scene.registry, scene.forkserver, scene.exits, [], NoEngines())  # type: ignore[arg-type]
        await manager.connect()
        scene.process("a").state = ProcessState.CREATED
        process = scene.process("b")
        process.state = ProcessState.STARTING
        process.pid = (await scene.forkserver.start(StartRequest(instance=2))).pid
        process.state = ProcessState.RUNNING
        assert (await process.wait()).status == 5
        manager.close()

    run(tmp_path, test)


def test_the_end_of_a_start_that_was_undone_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be started again."""
    reports_that_come(monkeypatch)

    async def test(scene: Scene) -> None:
        scene.standin.on_start = lambda instance: scene.standin.hang_up()
        with pytest.raises(Unavailable):
            await scene.forkserver.start(StartRequest(instance=2))
        await scene.join_again()
        for _ in range(2):  # by itself, and to one who joins it just then
            scene.standin.exited([Ended(2, PID, signal.SIGKILL, AT)])
            assert await scene.acknowledged() == [2]
        assert scene.ended == []
        scene.standin.exited([Ended(2, PID + 1, 5 << 8, AT)])  # of the next start
        assert await scene.acknowledged() == [2]
        assert scene.ended == ["b"]

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
