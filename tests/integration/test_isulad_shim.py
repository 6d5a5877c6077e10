"""iSulad's client code, row by row of docs/clients.md: the same bytes, to a real daemon."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from sandbox_api.proto import task_pb2 as pb
from supervisor.lifecycle.execs import KEPT_EXECS, MAX_EXECS

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.isulad import (
    Isulad,
    Isulad216,
    Isulad2023,
    ShimLibrary,
    bundle,
    image,
    records,
    spec,
    with_network_of,
)
from ..harness.netns import NetworkNamespace


@pytest.fixture
def shim(daemon: Daemon) -> Iterator[ShimLibrary]:
    with ShimLibrary(daemon) as library:
        yield library


@pytest.mark.parametrize("dialect", [Isulad2023, Isulad216])
def test_shutdown_and_stop_are_idempotent(daemon: Daemon, dialect: type[Isulad]) -> None:
    isulad = dialect(daemon)
    isulad.create("lost")
    isulad.named("Start", "lost")
    for _ in range(2):  # the first answer may have been lost
        isulad.named("Stop", "lost", timeout_secs=1)
    for _ in range(2):
        isulad.named("Shutdown", "lost")
    isulad.named("Stop", "lost")
    isulad.named("Shutdown", "never-was")
    with pytest.raises(NotFound, match="lost"):
        isulad.named("Status", "lost")


def test_signal_0_asks_whether_a_container_lives(pod: Pod, shim: ShimLibrary) -> None:
    container = pod.with_wasm("sleep").build()
    shim.kill(container.id, 0)
    assert container.status() == "CREATED"
    container.start().add_exec("e", "/app.wasm").start("e")
    for exec_id in ("", "e"):
        shim.kill(container.id, 0, exec_id)
        assert container.status(exec_id) == "RUNNING"
    container.kill(signal.SIGKILL, exec_id="e")
    assert container.wait("e") == 137
    with pytest.raises(NotFound):
        shim.kill(container.id, 0, "e")
    shim.call("Kill", pb.KillRequest(id=container.id, signal=0, all=True))  # one of its processes lives
    container.kill(signal.SIGTERM)
    assert container.wait() == 143
    with pytest.raises(NotFound):
        shim.kill(container.id, 0)
    container.delete()
    with pytest.raises(NotFound):
        shim.kill(container.id, 0)


def test_pids_is_never_empty(pod: Pod, shim: ShimLibrary) -> None:
    container = pod.with_wasm("sleep").build()
    with pytest.raises(FailedPrecondition, match=f"{container.id}: cannot list its processes: it was never started"):
        shim.pids(container.id)
    container.start()
    assert shim.pids(container.id) == [container.pid]
    container.kill(signal.SIGTERM)
    container.wait()
    assert shim.pids(container.id) == [container.pid]
    never = pod.with_wasm("sleep").build()
    never.kill(signal.SIGKILL)
    with pytest.raises(FailedPrecondition, match="it was never started"):
        shim.pids(never.id)


def test_a_second_delete_is_not_found(pod: Pod, shim: ShimLibrary) -> None:
    container = pod.with_wasm("exit").args("3").build().start()
    container.wait()
    assert shim.delete(container.id) == 3
    with pytest.raises(NotFound, match=container.id):  # its exit status is gone with it: no answer would be true
        shim.delete(container.id)


# Execs


def test_purge_deletes_an_exec_that_has_ended(daemon: Daemon, shim: ShimLibrary, tmp_path: Path) -> None:
    isulad = Isulad2023(daemon)
    isulad.create("probed")
    isulad.named("Start", "probed")
    root = image(tmp_path, "sleep", "exit")
    config = spec(root, "/sleep.wasm")
    isulad.prepare("probed", "box", config)
    shim.create("box", bundle(tmp_path / "bundle", config))
    shim.start("box")
    before = records(daemon, "processes"), records(daemon, "prepared")
    probe = {"args": ["/exit.wasm", "4"], "cwd": "/"}
    for number in range(3):
        isulad.prepare("probed", "box", probe, exec_id=f"probe{number}")
        shim.exec("box", f"probe{number}")
        shim.start("box", f"probe{number}")
        assert shim.wait("box", f"probe{number}") == 4
        for _ in range(2):  # the first answer may have been lost
            isulad.purge("probed", "box", f"probe{number}")
        with pytest.raises(NotFound):
            shim.state("box", f"probe{number}")
    assert (records(daemon, "processes"), records(daemon, "prepared")) == before
    isulad.prepare("probed", "box", probe, exec_id="never")
    shim.exec("box", "never")
    isulad.purge("probed", "box", "never")  # its start failed, say
    assert (records(daemon, "processes"), records(daemon, "prepared")) == before
    isulad.named("Shutdown", "probed")


def test_ended_execs_are_bounded(pod: Pod, shim: ShimLibrary) -> None:
    container = pod.with_wasm("sleep").build().start()
    probe = json.dumps({"args": ["/app.wasm"], "cwd": "/"}).encode()
    for number in range(KEPT_EXECS + 20):
        shim.exec(container.id, f"e{number}", probe)
        shim.kill(container.id, signal.SIGKILL, f"e{number}")
    for number in range(MAX_EXECS):
        shim.exec(container.id, f"more{number}", probe)
    with pytest.raises(ResourceExhausted, match="1024 execs are created or running"):
        shim.exec(container.id, "one-too-many", probe)
    shim.start(container.id, "more0")
    waiting = shim.send("Wait", pb.WaitRequest(id=container.id, exec_id="more0"))
    shim.kill(container.id, signal.SIGTERM, "more0")
    assert shim.receive(waiting, "Wait").exit_status == 143
    assert container.status("more0") == "STOPPED"  # the last is kept, and the first are not
    assert container.status(f"e{KEPT_EXECS + 19}") == "STOPPED"
    for number in range(21):
        with pytest.raises(NotFound):
            container.status(f"e{number}")
    assert container.status("e21") == "STOPPED"


# Preparations


def test_prepare_replaces_after_delete(daemon: Daemon, shim: ShimLibrary, tmp_path: Path) -> None:
    isulad = Isulad2023(daemon)
    isulad.create("again")
    isulad.named("Start", "again")
    root = image(tmp_path, "exit")
    for number in range(3):  # isula start, again and again
        config = spec(root, "/exit.wasm", str(number))
        prepared = isulad.prepare("again", "box", config)
        assert isulad.prepare("again", "box", config) == prepared  # as after a lost answer, or a start that failed
        assert json.loads(Path(prepared, "config.json").read_text()) == config
        shim.create("box", bundle(tmp_path / f"bundle{number}", config))
        with pytest.raises(AlreadyExists, match="container box: there is one already"):
            isulad.prepare("again", "box", config)
        shim.start("box")
        assert shim.wait("box") == number
        shim.delete("box")
        assert not Path(prepared).exists()
    isulad.purge("again", "box")
    isulad.named("Shutdown", "again")


def test_preparations_go_with_task_delete(daemon: Daemon, shim: ShimLibrary, tmp_path: Path) -> None:
    """Each restart has a new id, and what ended by itself is never purged. iSulad 2.1.6 lists it all the same."""
    old, new = Isulad2023(daemon), Isulad216(daemon)
    root = image(tmp_path, "exit")
    bundles = daemon.dir / "bundles" / "default"
    listed: list[dict[str, Any]] = []
    for pod in ("crash23", "crash216"):
        old.create(pod)
        old.named("Start", pod)
    for number in range(4):
        config = spec(root, "/exit.wasm", "1")
        for pod in ("crash23", "crash216"):
            name = f"{pod}-{number}"
            if pod == "crash23":
                old.prepare(pod, name, config)
            else:
                listed.append({"task_id": name, "spec": config})
                new.update_tasks(pod, listed)
            shim.create(name, bundle(tmp_path / name, config))
            shim.start(name)
            assert shim.wait(name) == 1
            shim.delete(name)
            assert list(bundles.iterdir()) == []
    with closing(sqlite3.connect(f"file:{daemon.dir}/state.db?mode=ro", uri=True)) as database:
        marks = database.execute("SELECT sandbox_id, length(spec) FROM prepared").fetchall()
    assert marks == [("crash216", 0)] * 4  # what is listed is known, and no more than that
    changed = [each | {"spec": spec(root, "/exit.wasm", "7")} for each in listed[:1]]
    new.update_tasks("crash216", changed)  # the rest is purged, and this is something else
    assert [path.name for path in bundles.iterdir()] == ["crash216-0"]
    shim.create("crash216-0", bundle(tmp_path / "changed", changed[0]["spec"]))
    shim.start("crash216-0")
    assert shim.wait("crash216-0") == 7
    for pod in ("crash23", "crash216"):
        new.named("Shutdown", pod)
    assert records(daemon, "prepared") == 0


# The network of a pod that uses the host's


def test_a_sandboxs_own_namespace_wins_over_the_spec(daemon: Daemon, tmp_path: Path) -> None:
    root = image(tmp_path, "sleep")
    with NetworkNamespace() as netns, ShimLibrary(daemon) as shim:
        isulad = Isulad216(daemon)
        isulad.create("private", netns_path=netns.path)
        pid = isulad.named("Start", "private").pid
        shim.create("inside", bundle(tmp_path / "inside", with_network_of(root, "private", pid, "/sleep.wasm")))
        assert os.readlink(f"/proc/{shim.start('inside')}/ns/net") == os.readlink(netns.path)
        isulad.named("Shutdown", "private")


def test_a_missing_input_can_be_polled(pod: Pod) -> None:
    container = pod.with_wasm("poll").streams(stdin="").build().start()
    assert container.wait() == 0  # its end is there at once


def test_a_fifo_input_can_be_polled(pod: Pod) -> None:
    container = pod.with_wasm("poll").fifos("stdin").build().start()
    (container.bundle / "stdin").write_text("nine bytes")
    container.close_stdin()
    assert container.wait() == 10
