"""Notes of containerd's shim about containers that it has given up: the daemon ends them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.proto import task_pb2

from ..harness.compiled import until
from ..harness.container import Container, Pod
from ..harness.daemon import ROOT, Daemon

SHIM = ROOT / "packaging/containerd/containerd-shim-wasm-v1"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.fixture
def pod(daemon: Daemon) -> Iterator[Pod]:
    made = Pod(daemon, "k8s.io")
    yield made
    made.close()


def give_up(container: Container) -> None:
    """Do what containerd does with a container that it cannot reach."""
    address = {"version": 3, "address": f"ttrpc+unix://{container.pod.daemon.task_socket}", "protocol": "ttrpc"}
    (container.bundle / "bootstrap.json").write_text(json.dumps(address, separators=(",", ":")))
    flags = ["-namespace", container.pod.namespace, "-address", "/run/c.sock", "-id", container.id]
    command = [SHIM, *flags, "-bundle", container.bundle, "delete"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")  # either would be a line in containerd's log
    answer = task_pb2.DeleteResponse()
    answer.ParseFromString(done.stdout)
    assert answer.exit_status == 255
    assert abs(answer.exited_at.seconds - time.time()) < 60


def test_the_next_daemon_ends_what_was_given_up(daemon: Daemon, pod: Pod) -> None:
    kept, given_up = (pod.with_wasm("sleep").build().start() for _ in range(2))
    other = Pod(daemon, "k8s.io")
    alone = other.with_wasm("sleep").build().start()
    daemon.kill()
    for each in (given_up, alone):
        give_up(each)
    daemon.start()
    assert [worker.pid for worker in daemon.workers()] == [kept.pid]
    assert kept.reconnect().status() == "RUNNING"
    assert pod.api.status(pod.id).state == "SANDBOX_READY"
    assert other.api.status(other.id).state == "SANDBOX_NOTREADY"  # nothing of it is left
    assert list((daemon.dir / "given-up").iterdir()) == []
    other.close()


def test_a_daemon_that_lives_ends_it_too(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    give_up(container)
    until("its end", lambda: not daemon.workers())


def test_notes_about_nothing_are_removed(daemon: Daemon) -> None:
    folder = daemon.dir / "given-up"
    daemon.stop()
    folder.mkdir()
    (folder / "a.note").write_text("k8s.io\nnobody\n")
    (folder / "b.note").write_text("")
    os.utime(folder / "b.note", (0, 0))
    (folder / "c.note").write_bytes(b"\xff\n\n")
    daemon.start()
    assert list(folder.iterdir()) == []


def test_a_note_that_is_being_written_is_read_later(daemon: Daemon) -> None:
    daemon.kill()
    folder = daemon.dir / "given-up"
    folder.mkdir()
    for name, text in (("empty", ""), ("half", "k8s.io"), ("almost", "k8s.io\nsome")):
        (folder / f"{name}.note").write_text(text)
    daemon.start()
    assert {note.stem for note in folder.iterdir()} == {"empty", "half", "almost"}


def test_a_note_is_about_what_ran_when_it_was_written(daemon: Daemon, pod: Pod) -> None:
    """Every deleted container leaves one, and its id may be in use again before anybody looks."""
    container = pod.with_wasm("sleep").build().start()
    daemon.stop()
    give_up(container)
    (note,) = (daemon.dir / "given-up").iterdir()
    hour_ago = time.time() - 3600
    os.utime(note, (hour_ago, hour_ago))
    daemon.start()
    assert not note.exists()
    assert container.reconnect().status() == "RUNNING"


def test_empty_pods_of_a_containerd_that_started_meanwhile_are_stopped(tmp_path: Path) -> None:
    """It may have asked about them in vain, and then starts nothing in them any more."""
    socket = tmp_path / "containerd.sock.ttrpc"
    with Daemon("--events", str(socket)) as daemon:
        empty, other, full = Pod(daemon, "k8s.io"), Pod(daemon, "others"), Pod(daemon, "k8s.io")
        container = full.with_wasm("sleep").build().start()

        def states() -> list[str]:
            return [each.api.status(each.id).state.removeprefix("SANDBOX_") for each in (empty, other, full)]

        socket.touch()
        daemon.stop()
        daemon.start()  # there was no containerd before
        daemon.stop()
        daemon.start()  # the same
        assert states() == ["READY"] * 3
        daemon.stop()
        socket.unlink()
        (tmp_path / "another").touch()  # which may take the other's inode
        socket.touch()
        daemon.start()
        assert states() == ["NOTREADY", "READY", "READY"]
        assert container.reconnect().status() == "RUNNING"
        for each in (empty, other, full):
            each.close()
