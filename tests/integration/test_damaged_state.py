"""The state file is damaged while nobody serves: all that runs, has ended or waits to run is there again, as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import NotFound
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import types_pb2

from ..harness.container import Collected, Container, Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.isulad import Isulad2023
from ..harness.ttrpc import Connection
from .test_recovery import forkserver

NAMESPACE = f"damaged{os.getpid()}"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


class Node:
    """Sandboxes and containers in every state."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.pod, self.stopped_pod, self.empty_pod = (Pod(daemon, NAMESPACE) for _ in range(3))
        self.stopped_pod.stop()
        builder = self.pod.with_wasm("cat").fifos("stdin", "stdout").mount("/scratch", kind="tmpfs")
        builder.file("etc/hosts", "").mount("/etc/hosts", self._hosts(), options=("ro",))
        builder.linux(resources={"pids": {"limit": 50}})
        shutil.copy(guest("sleep"), builder.rootfs / "sleep.wasm")
        shutil.copy(guest("exit"), builder.rootfs / "exit.wasm")
        self.runs = builder.build()
        self.output = Collected(self.runs.bundle / "stdout")
        self.runs.start().add_exec("e", "/sleep.wasm").start("e")
        self.runs.add_exec("done", "/exit.wasm", "9").start("done").add_exec("new", "/exit.wasm", "8")
        assert self.runs.wait("done") == 9
        self.terminal = self.pod.with_wasm("cat").terminal().fifos("stdin", "stdout").streams(stderr="").build()
        self.screen = Collected(self.terminal.bundle / "stdout")
        self.terminal.start()
        self.keyboard = (self.terminal.bundle / "stdin").open("w", buffering=1)
        self.ended = self.pod.with_wasm("exit").args("7").build().start()
        assert self.ended.wait() == 7
        limits = {"resources": {"pids": {"limit": 9}}}
        self.created = self.pod.with_wasm("exit").args("4").mount("/tmp", kind="tmpfs").linux(**limits).build()
        self.paused = self.pod.with_wasm("sleep").build().start()
        self.paused.connection.call("Pause", pb.PauseRequest(id=self.paused.id))
        self.sleeper = self.pod.with_wasm("sleep").build().start()
        self.others = [self.pod.with_wasm("hello").env(FILLER="x" * 6000).build() for _ in range(6)]
        self.waiter = self.runs.wait_later().arrived()
        self.old = Isulad2023(daemon)  # in the namespace "default"
        self.old.create(self._old())
        self.old.named("Start", self._old())
        mount = types_pb2.Mount(type="bind", source=str(self.ended.rootfs), options=["rbind"])
        spec = {"process": {"args": ["/app.wasm", "3"], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {}}
        self.prepared = self.old.prepare(self._old(), "box", spec, rootfs=[mount])

    def _hosts(self) -> Path:
        path = self.daemon.folder / "hosts"
        path.write_text("127.0.0.1 here\n")
        return path

    def _old(self) -> str:
        return f"{self.pod.id}-old"

    def containers(self) -> list[Container]:
        return [self.runs, self.terminal, self.ended, self.created, self.paused, self.sleeper, *self.others]

    def states(self) -> list[pb.StateResponse]:
        """Ids, pids, bundles, streams, states, statuses and times of all processes."""
        told = [each.reconnect().state() for each in self.containers()]
        told += [self.runs.state(name) for name in ("e", "done", "new")]
        return told

    def pods(self) -> list[object]:
        found = []
        for pod in (self.pod, self.stopped_pod, self.empty_pod):
            status = pod.api.status(pod.id)
            found.append((status.sandbox_id, status.state, status.created_at, status.exited_at))
        return found

    def mounts(self) -> list[str]:
        return sorted(self.daemon.mounts())

    def groups(self) -> list[str]:
        walk = os.walk("/sys/fs/cgroup")  # unlike glob, it does not mind what goes away meanwhile
        return sorted(
            f"{place}/{name}" for place, names, _ in walk if place.endswith(f"/{NAMESPACE}") for name in names
        )

    def use(self) -> None:
        """All goes on as if nothing had been."""
        self.keyboard.write("typed\n")
        self.terminal.connection.call("ResizePty", pb.ResizePtyRequest(id=self.terminal.id, width=80, height=25))
        self.terminal.close_stdin()
        assert self.terminal.wait() == 0
        assert self.screen.text() == "typed\r\ntyped\r\n"
        self.keyboard.close()
        self.runs.start("new")
        assert self.runs.wait("new") == 8
        self.runs.kill(signal.SIGTERM, exec_id="e")
        assert self.runs.wait("e") == 143
        assert [self.runs.delete(name).exit_status for name in ("e", "done", "new")] == [143, 9, 8]
        (self.runs.bundle / "stdin").write_text("still there")
        assert self.waiter.result().exit_status == 0  # on a connection from before
        assert self.output.text() == "still there"
        self.paused.connection.call("Resume", pb.ResumeRequest(id=self.paused.id))
        self.paused.kill(signal.SIGTERM)
        assert self.paused.wait() == 143
        assert self.created.start().wait() == 4
        assert self.others[0].start().wait() == 0
        assert [each.delete().exit_status for each in (self.runs, self.ended, self.created)] == [0, 7, 4]
        with pytest.raises(NotFound):
            self.ended.state()
        with Connection(self.daemon.task_socket) as task:
            task.call("Create", pb.CreateTaskRequest(id="box", bundle=self.prepared))
            task.call("Start", pb.StartRequest(id="box"))
            assert task.call("Wait", pb.WaitRequest(id="box")).exit_status == 3

    def take_down(self) -> None:
        for pod in (self.pod, self.stopped_pod, self.empty_pod):
            pod.shutdown()
            pod.close()
        self.old.named("Shutdown", self._old())

    def left_over(self) -> list[object]:
        """What is there although all was taken down."""
        rows = []
        with contextlib.closing(sqlite3.connect(f"file:{self.daemon.dir}/state.db?mode=ro", uri=True)) as db:
            for table in ("sandboxes", "containers", "processes", "prepared"):
                rows += db.execute(f"SELECT * FROM {table}").fetchall()
        folders = [path for name in ("containers", "bundles") for path in (self.daemon.dir / name).glob("*/*")]
        return [*self.daemon.workers(), *self.mounts(), *self.groups(), *rows, *folders]


def all_in_one_file(folder: Path) -> None:
    """What is in the journal goes to the state file, so that it does matter."""
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def garbage(folder: Path) -> None:
    all_in_one_file(folder)
    (folder / "state.db").write_bytes(os.urandom(100_000))


def garbage_in_all_files(folder: Path) -> None:
    for path in folder.glob("state.db*"):
        path.write_bytes(os.urandom(path.stat().st_size))


def cut_short(folder: Path) -> None:
    all_in_one_file(folder)
    os.truncate(folder / "state.db", (folder / "state.db").stat().st_size // 2)


def emptied(folder: Path) -> None:
    all_in_one_file(folder)
    os.truncate(folder / "state.db", 0)


def removed(folder: Path) -> None:
    for path in folder.glob("state.db*"):
        path.unlink()


def page_in_the_middle(folder: Path) -> None:
    all_in_one_file(folder)
    with (folder / "state.db").open("r+b") as file:
        file.seek((folder / "state.db").stat().st_size // 8192 * 4096)
        file.write(bytes(4096))


@pytest.mark.parametrize("damage", [garbage, garbage_in_all_files, cut_short, emptied, removed, page_in_the_middle])
def test_all_is_there_again(daemon: Daemon, damage: Callable[[Path], None]) -> None:
    node = Node(daemon)
    before = node.states(), node.pods(), node.mounts(), node.groups(), {each.pid for each in daemon.workers()}
    daemon.kill()
    damage(daemon.dir)
    daemon.start()
    assert "made anew from its spare" in daemon.log_text()
    after = node.states(), node.pods(), node.mounts(), node.groups(), {each.pid for each in daemon.workers()}
    assert after == before
    node.use()
    node.take_down()
    assert node.left_over() == []
    assert [path.name for path in daemon.dir.glob("state.db.*") if path.suffix != ".db"]


def test_the_forkserver_died_as_well(daemon: Daemon) -> None:
    """Nobody but the spare knows then what runs."""
    node = Node(daemon)
    before = node.states()
    daemon.process.send_signal(signal.SIGSTOP)
    forkserver(daemon).kill()
    daemon.kill()
    garbage(daemon.dir)
    daemon.start()
    assert node.states() == before
    node.runs.kill(signal.SIGKILL)
    assert node.runs.wait() in (137, 255)  # whether the kernel tells depends on its version
    node.take_down()
    node.keyboard.close()
    assert node.left_over() == []


def test_what_happened_last_is_there_too(daemon: Daemon) -> None:
    """Whatever was answered before the supervisor was killed, be it a moment before."""
    pod = Pod(daemon, NAMESPACE)
    containers = [pod.with_wasm("sleep").build() for _ in range(3)]
    containers[0].start()
    containers[1].start().kill(signal.SIGKILL)
    assert containers[1].wait() == 137
    containers[2].start()
    daemon.kill()
    garbage_in_all_files(daemon.dir)
    os.kill(containers[2].pid, signal.SIGTERM)
    daemon.start()
    assert [each.reconnect().status() for each in containers[:2]] == ["RUNNING", "STOPPED"]
    assert [each.reconnect().wait() for each in containers[1:]] == [137, 143]
    pod.shutdown()
    pod.close()


def test_without_a_spare_it_is_said_and_begun_anew(daemon: Daemon) -> None:
    pod = Pod(daemon, NAMESPACE)
    runs = pod.with_wasm("sleep").build().start()
    worker = psutil.Process(runs.pid)
    daemon.kill()
    garbage(daemon.dir)
    shutil.rmtree(daemon.dir / "spare")
    daemon.start()
    assert "there is no spare, and what runs will be ended" in daemon.log_text()
    with pytest.raises(NotFound):
        runs.reconnect().state()
    assert psutil.wait_procs([worker], timeout=5) == ([worker], [])
    pod.api.create("fresh")
    pod.api.start("fresh")
    pod.api.shutdown("fresh")
    pod.close()
