"""A damaged state file is set aside: what ran from it is ended and removed, and the node begins empty."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import NotFound, SandboxerError
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import types_pb2

from ...harness.compiled import until
from ...harness.container import Container, Pod
from ...harness.daemon import Daemon
from ...harness.helpers import forkserver, relay
from ...harness.isulad import Isulad2023
from ...harness.names import RUN
from ...harness.ttrpc import Connection

NAMESPACE = f"damaged{RUN}"


class Node:
    """Sandboxes, and containers in every state, with mounts and control groups."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.pod = Pod(daemon, NAMESPACE)
        limits = {"resources": {"pids": {"limit": 50}}}
        elsewhere = {"cgroupsPath": f"/{NAMESPACE}-pods/box", **limits}
        builder = self.pod.with_wasm("cat").fifos("stdin", "stdout").mount("/scratch", kind="tmpfs")
        self.runs = builder.mount("/data", daemon.folder).linux(**limits).build().start()
        self.builder = self.pod.with_wasm("sleep").mount("/tmp", kind="tmpfs").linux(**elsewhere)
        self.placed = self.builder.build().start()
        self.paused = self.pod.with_wasm("sleep").mount("/scratch", kind="tmpfs").linux(**limits).build().start()
        self.paused.connection.call("Pause", pb.PauseRequest(id=self.paused.id))
        self.created = self.pod.with_wasm("exit").mount("/tmp", kind="tmpfs").linux(**limits).build()
        builder = self.pod.with_wasm("exit").file("etc/hosts", "").mount("/etc/hosts", daemon.log)
        self.mounted = builder.rootfs_mount("bind", self.created.rootfs, "rbind").build()
        self.ended = self.pod.with_wasm("exit").args("7").mount("/tmp", kind="tmpfs").linux(**limits).build().start()
        assert self.ended.wait() == 7
        self.waiter = self.placed.wait_later().arrived()
        self.old = Isulad2023(daemon)  # in the namespace "default"
        self.old.create(self._old())
        self.old.named("Start", self._old())
        mount = types_pb2.Mount(type="bind", source=str(self.ended.rootfs), options=["rbind"])
        spec = {"process": {"args": ["/app.wasm", "3"], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {}}
        bundle = self.old.prepare(self._old(), "box", spec, rootfs=[mount])
        with Connection(daemon.task_socket) as task:
            task.call("Create", pb.CreateTaskRequest(id="box", bundle=bundle))

    def _old(self) -> str:
        return f"{self.pod.id}-old"

    def containers(self) -> list[Container]:
        return [self.runs, self.placed, self.paused, self.created, self.mounted, self.ended]

    def groups(self) -> list[str]:
        walk = os.walk("/sys/fs/cgroup")  # unlike glob, it does not mind what goes away meanwhile
        return [f"{place}/{name}" for place, names, _ in walk for name in names if name.startswith(NAMESPACE)]

    def left_over(self) -> list[object]:
        folders = [path for name in ("containers", "bundles") for path in (self.daemon.dir / name).glob("*/*")]
        return [*self.daemon.workers(), *self.daemon.mounts(), *self.groups(), *folders]

    def check_begun_empty(self) -> None:
        """Nothing is left of what was, and clients are told; the same ids, and what they run, work again."""
        assert self.left_over() == []
        with pytest.raises(NotFound):
            self.waiter.result()  # on a connection from before
        for container in self.containers():
            with pytest.raises(NotFound):
                container.reconnect().state()
        with pytest.raises(NotFound):
            self.pod.api.status(self.pod.id)
        self.pod.api.create(self.pod.id)
        self.pod.api.start(self.pod.id)
        self.placed.connection.call("Create", self.builder.request())
        self.placed.start().kill(signal.SIGTERM)
        assert self.placed.wait() == 143
        self.pod.shutdown()
        self.pod.close()
        assert self.left_over() == []


def in_one_file(folder: Path) -> Path:
    """The state file, with all that its journal held."""
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "state.db"


def garbage(folder: Path) -> None:
    in_one_file(folder).write_bytes(os.urandom(100_000))


def garbage_in_all_files(folder: Path) -> None:
    for path in folder.glob("state.db*"):
        path.write_bytes(os.urandom(path.stat().st_size))


def cut_short(folder: Path) -> None:
    path = in_one_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def emptied(folder: Path) -> None:
    os.truncate(in_one_file(folder), 0)


def removed(folder: Path) -> None:
    for path in folder.glob("state.db*"):
        path.unlink()


def values_of_another_kind(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as db, db:
        db.execute("UPDATE sandboxes SET labels = '5'")


def control_groups_that_are_none(folder: Path) -> None:
    """The daemon said so, and did not start again."""
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as db, db:
        assert db.execute("UPDATE containers SET cgroup = '{' WHERE cgroup != ''").rowcount > 0


@pytest.mark.parametrize(
    "damage",
    [garbage, garbage_in_all_files, cut_short, emptied, removed, values_of_another_kind, control_groups_that_are_none],
)
def test_damage_found_at_start_leaves_an_empty_node(daemon: Daemon, damage: Callable[[Path], None]) -> None:
    node = Node(daemon)
    before = len(node.left_over())
    daemon.kill()
    damage(daemon.dir)
    daemon.start()
    assert before > 10
    aside = [path for path in daemon.dir.glob("state.db.unfit-*") if not path.name.endswith("-wal")]
    assert len(aside) == (damage not in (emptied, removed))
    assert ("set aside as" in daemon.log_text()) == bool(aside)
    node.check_begun_empty()


def test_state_of_an_earlier_boot_leaves_an_empty_node(daemon: Daemon) -> None:
    node = Node(daemon)
    daemon.kill()
    with contextlib.closing(sqlite3.connect(daemon.dir / "state.db", isolation_level=None)) as db:
        db.execute("UPDATE boot SET id = 'another'")
    daemon.start()
    assert "of before the machine was restarted" in daemon.log_text()
    assert not list(daemon.dir.glob("state.db.unfit-*"))
    node.check_begun_empty()


def test_newest_records_that_are_lost_are_noticed_and_numbers_not_given_twice(daemon: Daemon, pod: Pod) -> None:
    """A hand removed the -wal alone: what is in the file is sound, and old."""
    before = pod.with_wasm("sleep").build().start()
    daemon.stop()  # writes all to the file itself
    daemon.start()
    lost = pod.with_wasm("sleep").build().start()
    daemon.kill()
    for name in ("state.db-wal", "state.db-shm"):
        (daemon.dir / name).unlink()
    daemon.start()
    assert "the state file lacks its newest records" in daemon.log_text()
    assert before.reconnect().status() == "RUNNING"
    with pytest.raises(NotFound):
        lost.reconnect().state()
    until("it is ended", lambda: [worker.pid for worker in daemon.workers()] == [before.pid])
    assert pod.with_wasm("exit").args("6").build().start().wait() == 6
    with contextlib.closing(sqlite3.connect(daemon.dir / "state.db")) as db:
        (first,), (last,) = db.execute("SELECT instance FROM processes ORDER BY instance")
    assert last == first + 2


def test_workers_of_a_dead_forkserver_are_ended_too(daemon: Daemon) -> None:
    node = Node(daemon)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    forkserver(daemon).kill()
    daemon.kill()
    garbage(daemon.dir)
    daemon.start()
    node.check_begun_empty()


def test_damage_found_while_serving_restarts_the_supervisor(daemon: Daemon) -> None:
    node = Node(daemon)
    assert daemon.process is not None
    supervisor = psutil.Process(daemon.process.pid)
    with contextlib.closing(sqlite3.connect(daemon.dir / "state.db")) as db:
        db.execute("UPDATE sandboxes SET exited_at = exited_at")  # the daemon's copies of pages count no more
    path = in_one_file(daemon.dir)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with pytest.raises(SandboxerError):
        node.created.start()
    until("a restart", lambda: daemon.log_text().count("serves on") == 2)
    assert supervisor.is_running()  # the same process, as a service manager sees it
    assert len(list(daemon.dir.glob("state.db.unfit-*"))) >= 1
    kept = relay(daemon)
    forkserver(daemon).kill()
    until("a new forkserver", lambda: "a forkserver is up" in daemon.log_text())
    assert kept.is_running()  # a child, although the process that it is of did not start it since it restarted
    assert f"killing pid {kept.pid}," not in daemon.log_text()
    node.check_begun_empty()


def test_other_sandboxers_keep_what_is_theirs(daemon: Daemon) -> None:
    with Daemon() as other:
        pod = Pod(other, NAMESPACE)
        limits = {"resources": {"pids": {"limit": 5}}}
        container = pod.with_wasm("sleep").mount("/scratch", kind="tmpfs").linux(**limits).build()
        waiting = pod.with_wasm("exit").args("4").linux(**limits).build()
        daemon.kill()
        garbage(daemon.dir)
        daemon.start()
        assert len(other.mounts()) == 1
        container.start().kill(signal.SIGTERM)
        assert container.wait() == 143
        assert waiting.start().wait() == 4
        pod.shutdown()
        pod.close()
