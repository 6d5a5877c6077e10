"""iSulad's order of calls, replayed in both dialects on one socket."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import types_pb2

from ..harness.container import Collected
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.isulad import Isulad216, Isulad2023
from ..harness.ttrpc import Connection

V2 = "containerd.task.v2.Task"


@pytest.fixture
def old(daemon: Daemon) -> Isulad2023:
    return Isulad2023(daemon)


@pytest.fixture
def new(daemon: Daemon) -> Isulad216:
    return Isulad216(daemon)


@pytest.fixture
def task(daemon: Daemon) -> Iterator[Connection]:
    with Connection(daemon.task_socket) as connection:
        yield connection


def image(folder: Path, *names: str) -> Path:
    """A root file system with these guests in it."""
    root = folder / "image"
    root.mkdir()
    for name in names:
        shutil.copy(guest(name), root / f"{name}.wasm")
    return root


def spec(*args: str, root: str = "rootfs") -> dict[str, Any]:
    return {"process": {"args": list(args), "cwd": "/"}, "root": {"path": root}, "linux": {}}


def fifos(folder: Path, prefix: str = "") -> dict[str, str]:
    paths = {name: str(folder / f"{prefix}{name}") for name in ("stdin", "stdout", "stderr")}
    for path in paths.values():
        os.mkfifo(path)
    return paths


def test_a_pod_of_isulad_2023(old: Isulad2023, task: Connection, tmp_path: Path) -> None:
    root = image(tmp_path, "cat", "exit")
    old.create("old1")
    started = old.named("Start", "old1")
    assert started.task_address == f"unix://{old.daemon.task_socket}"
    assert old.named("Status", "old1").state == "SANDBOX_READY"
    assert old.named("Status", "old1").task_address == started.task_address
    assert old.named("Platform", "old1").platform.os == "linux"

    streams = fifos(tmp_path)
    mount = types_pb2.Mount(type="bind", source=str(root), options=["rbind"])
    bundle = old.prepare("old1", "box", spec("/cat.wasm"), rootfs=[mount], **streams)
    assert Path(bundle, "config.json").exists()
    own = tmp_path / "bundle"
    own.mkdir()
    (own / "config.json").write_text(Path(bundle, "config.json").read_text().replace('"rootfs"', f'"{root}"'))
    task.call("Create", pb.CreateTaskRequest(id="box", bundle=str(own), **streams), V2)
    output = Collected(Path(streams["stdout"]))
    task.call("Start", pb.StartRequest(id="box"), V2)

    bundle_of_exec = old.prepare("old1", "box", {"args": ["/exit.wasm", "6"], "cwd": "/"}, exec_id="e1")
    assert bundle_of_exec == bundle
    task.call("Exec", pb.ExecProcessRequest(id="box", exec_id="e1"), V2)
    task.call("Start", pb.StartRequest(id="box", exec_id="e1"), V2)
    assert task.call("Wait", pb.WaitRequest(id="box", exec_id="e1"), V2).exit_status == 6
    task.call("Delete", pb.DeleteRequest(id="box", exec_id="e1"), V2)
    old.purge("old1", "box", "e1")

    old.update_resources("old1", "box", {"memory": {"limit": 128 << 20}})
    Path(streams["stdin"]).write_text("through isulad")
    assert task.call("Wait", pb.WaitRequest(id="box"), V2).exit_status == 0
    assert output.text() == "through isulad"
    task.call("Delete", pb.DeleteRequest(id="box"), V2)
    old.purge("old1", "box")
    assert not Path(bundle).exists()
    assert old.daemon.mounts() == []
    old.named("Stop", "old1", timeout_secs=1)
    assert old.named("Wait", "old1").exit_status == 0
    old.named("Shutdown", "old1")
    with pytest.raises(NotFound):
        old.named("Status", "old1")


def test_a_pod_of_isulad_216(new: Isulad216, task: Connection, tmp_path: Path) -> None:
    root = image(tmp_path, "exit", "sleep")
    new.create("new1")
    assert new.named("Start", "new1").address == f"ttrpc+unix://{new.daemon.task_socket}"
    mount = {"type": "bind", "source": str(root), "target": "/", "options": ["rbind"]}
    kuasars = {"type": "bind", "source": str(root), "destination": "", "options": ["rbind", "ro"]}
    one = {"task_id": "one", "spec": spec("/exit.wasm", "3"), "rootfs": [mount]}
    two = {"task_id": "two", "spec": spec("/sleep.wasm"), "rootfs": [kuasars]}
    new.update_tasks("new1", [one])
    new.update_tasks("new1", [one, two])
    bundles = new.daemon.dir / "bundles" / "default"
    assert sorted(path.name for path in bundles.iterdir()) == ["one", "two"]
    for name in ("one", "two"):
        task.call("Create", pb.CreateTaskRequest(id=name, bundle=str(bundles / name)), V2)
        task.call("Start", pb.StartRequest(id=name), V2)
    assert task.call("Wait", pb.WaitRequest(id="one"), V2).exit_status == 3

    two_and_exec = two | {"processes": [{"exec_id": "e", "spec": {"args": ["/exit.wasm", "8"], "cwd": "/"}}]}
    new.update_tasks("new1", [one, two_and_exec])
    task.call("Exec", pb.ExecProcessRequest(id="two", exec_id="e"), V2)
    task.call("Start", pb.StartRequest(id="two", exec_id="e"), V2)
    assert task.call("Wait", pb.WaitRequest(id="two", exec_id="e"), V2).exit_status == 8

    with pytest.raises(FailedPrecondition, match="two: cannot purge it: it is running"):
        new.update_tasks("new1", [one])
    new.update_tasks("new1", [two])  # one has ended: it goes with its preparation
    with pytest.raises(NotFound):
        task.call("State", pb.StateRequest(id="one"), V2)
    task.call("Kill", pb.KillRequest(id="two", signal=9), V2)
    assert task.call("Wait", pb.WaitRequest(id="two"), V2).exit_status == 137
    new.update_tasks("new1", [])
    assert list(bundles.iterdir()) == []
    new.named("Shutdown", "new1")
    assert new.daemon.mounts() == []


def test_dialects_share_sandboxes(old: Isulad2023, new: Isulad216) -> None:
    old.create("shared")
    new.named("Start", "shared")
    assert old.named("Status", "shared").state == "SANDBOX_READY"
    new.named("Stop", "shared", timeout_secs=0)
    assert old.named("Wait", "shared").exit_status == 0
    old.named("Shutdown", "shared")


def test_a_create_that_fails_leaves_the_preparation(old: Isulad2023, task: Connection, tmp_path: Path) -> None:
    old.create("half")
    old.named("Start", "half")
    good = types_pb2.Mount(type="bind", source=str(tmp_path), options=["rbind"])
    bad = types_pb2.Mount(type="overlay", source="overlay", options=["lowerdir=/no/where"])
    bundle = old.prepare("half", "h", spec("/x.wasm"), rootfs=[good, bad])
    with pytest.raises(FailedPrecondition, match="overlay"):
        task.call("Create", pb.CreateTaskRequest(id="h", bundle=bundle), V2)
    assert old.daemon.mounts() == []
    assert Path(bundle).exists()
    old.purge("half", "h")
    assert not Path(bundle).exists()
    old.named("Shutdown", "half")


def test_shutdown_undoes_what_is_prepared(old: Isulad2023) -> None:
    old.create("gone")
    old.named("Start", "gone")
    bundle = old.prepare("gone", "g", spec("/x.wasm"))
    old.named("Shutdown", "gone")
    assert not Path(bundle).exists()
    with pytest.raises(NotFound):
        old.purge("gone", "g")


def test_prepare_and_purge_refusals(old: Isulad2023, new: Isulad216) -> None:
    old.create("strict")
    with pytest.raises(FailedPrecondition, match="it is created"):
        old.prepare("strict", "c", spec("/x.wasm"))
    old.named("Start", "strict")
    with pytest.raises(InvalidArgument, match="process is missing"):
        old.prepare("strict", "c", {"root": {"path": "rootfs"}})
    with pytest.raises(InvalidArgument, match="an id is"):
        old.prepare("strict", "../../etc", spec("/x.wasm"))
    old.prepare("strict", "c", spec("/x.wasm"))
    old.create("next")
    old.named("Start", "next")
    with pytest.raises(AlreadyExists, match="prepared already, in sandbox strict"):
        old.prepare("next", "c", spec("/x.wasm"))
    with pytest.raises(NotFound, match="it is prepared in sandbox strict, not in next"):
        old.purge("next", "c")
    old.named("Shutdown", "next")
    with pytest.raises(NotFound, match="nobody"):
        old.update_resources("strict", "nobody", {})
    with pytest.raises(InvalidArgument, match="twice"):
        new.update_tasks("strict", [{"task_id": "t", "spec": spec("/x")}, {"task_id": "t", "spec": spec("/x")}])
    with pytest.raises(InvalidArgument, match="process is missing"):
        new.update_tasks("strict", [{"task_id": "t", "spec": spec("/x")}, {"task_id": "u", "spec": {}}])
    assert not (old.daemon.dir / "bundles" / "default" / "t").exists()
    old.named("Shutdown", "strict")
