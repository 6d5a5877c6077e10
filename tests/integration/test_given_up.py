"""Notes of containerd's shim about containers that it has given up: the daemon ends them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{container.id} is ended when it is back" in done.stderr


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
    (folder / "c.note").write_bytes(b"\xff")
    daemon.start()
    assert list(folder.iterdir()) == []
