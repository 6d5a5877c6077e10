"""Restarts of containerd, and of the sandboxer, under running containers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from ..harness.compiled import until
from ..harness.helpers import relay
from . import cri_pb2 as pb
from .cri import eventually
from .node import Node, Pod
from .streaming import Session
from .test_containers import pid_of

CONTAINERD_WAITS = 5
"""Seconds that a containerd that starts waits for an answer about a container (io.containerd.timeout.shim.load)."""

UNKNOWN = 255

KINDS = [signal.SIGTERM, signal.SIGKILL]


@pytest.fixture
def node() -> Iterator[Node]:
    """A node of the test's own: what does not come back takes no other test along."""
    with Node() as node:
        yield node


@pytest.mark.parametrize("number", KINDS)
def test_a_container_runs_on_while_containerd_restarts(node: Node, number: signal.Signals) -> None:
    with node.pod() as pod:
        container = pod.run("tick", "150", "7")
        container.wait_for_line("tick 5")
        pid = pid_of(container)

        node.containerd.stop(number)
        node.containerd.start()

        assert node.cri.pod_status(pod.id).state == pb.SANDBOX_READY
        assert node.cri.status(container.id).state == pb.CONTAINER_RUNNING
        assert pid_of(container) == pid
        assert container.wait().exit_code == 7
        assert container.lines()[-1] == "tick 150"


@pytest.mark.parametrize("number", KINDS)
def test_an_end_while_containerd_is_away_is_not_lost(node: Node, number: signal.Signals) -> None:
    with node.pod() as pod:
        container = pod.run("tick", "50", "9")
        container.wait_for_line("tick 5")
        node.containerd.stop(number)
        (worker,) = node.sandboxer.workers()
        worker.wait(30)
        node.containerd.start()
        assert container.wait().exit_code == 9


def test_a_pod_takes_new_containers_after_containerds_restart(node: Node) -> None:
    with node.pod() as pod:
        node.containerd.stop()
        node.containerd.start()
        assert pod.run("exit", "5").wait().exit_code == 5


def crash(node: Node, pod: Pod) -> None:
    """Kill the sandboxer and start it again; return when containerd has found it again."""
    node.sandboxer.kill()
    node.sandboxer.start()
    assert eventually(lambda: node.cri.pod_status(pod.id)).state == pb.SANDBOX_READY


def test_a_container_runs_on_while_the_sandboxer_restarts(node: Node) -> None:
    with node.pod() as pod:
        container = pod.run("tick", "100", "7")
        container.wait_for_line("tick 5")
        crash(node, pod)
        assert container.wait().exit_code == 7


def test_a_pod_takes_new_containers_after_the_sandboxers_restart(node: Node) -> None:
    with node.pod() as pod:
        before = pod.run("sleep", "3600")
        crash(node, pod)
        assert pod.run("exit", "5").wait().exit_code == 5
        assert node.cri.status(before.id).state == pb.CONTAINER_RUNNING
        node.cri.stop_pod(pod.id)
        assert node.sandboxer.workers() == []


def test_a_restart_of_containerd_does_not_end_a_containers_stdin(node: Node) -> None:
    with node.pod() as pod:
        container = pod.run("cat", stdin=True)
        with Session(node.cri.attach_url(container.id, stdin=True), stdin=True) as session:
            session.write(b"before\n")
            session.read_until(b"before\n")
            node.containerd.stop(signal.SIGKILL)
        node.containerd.start()
        assert node.cri.status(container.id).state == pb.CONTAINER_RUNNING
        with Session(node.cri.attach_url(container.id, stdin=True), stdin=True) as session:
            session.write(b"after\n")
            session.read_until(b"after\n")
            session.close_stdin()
            session.finish()
        assert container.wait().exit_code == 0


def wait_seen(node: Node) -> None:
    """Wait until the sandboxer knows which containerd it serves, which takes it less than a second."""
    until("it has seen containerd", (node.sandboxer.dir / "containerd").exists)


@pytest.mark.parametrize("number", KINDS)
def test_sandboxer_and_relay_die_together(node: Node, number: signal.Signals) -> None:
    """Connections are lost, which containerd takes for the containers' end: so they end, and pods are made anew."""
    with node.pod() as pod:
        container = pod.run("sleep", "3600")
        wait_seen(node)
        held = relay(node.sandboxer)
        node.sandboxer.stop() if number == signal.SIGTERM else node.sandboxer.kill()
        held.kill()
        assert container.wait().exit_code == UNKNOWN
        node.sandboxer.start()
        until("its end", lambda: not node.sandboxer.workers())
        assert eventually(lambda: node.cri.pod_status(pod.id)).state == pb.SANDBOX_NOTREADY
    with node.pod() as pod:
        assert pod.run("exit", "5").wait().exit_code == 5


@pytest.mark.parametrize("seconds", [2, 12])
@pytest.mark.parametrize("number", KINDS)
def test_containerd_starts_while_the_sandboxer_is_away(node: Node, number: signal.Signals, seconds: int) -> None:
    """Either everything is as it was, or what containerd has given up has ended: nothing runs that it does not know."""
    with node.pod() as pod, node.pod() as empty:
        container = pod.run("sleep", "3600")
        pid = pid_of(container)
        wait_seen(node)
        node.containerd.stop(number)
        node.sandboxer.stop() if number == signal.SIGTERM else node.sandboxer.kill()
        starter = threading.Timer(seconds, node.sandboxer.start)
        began = time.monotonic()
        starter.start()
        node.containerd.start()
        starter.join()
        away = time.monotonic() - began  # with the time that the sandboxer takes to start on a busy machine
        eventually(lambda: node.cri.pod_status(pod.id))  # containerd dials again after a while
        if eventually(lambda: node.cri.pod_status(empty.id)).state == pb.SANDBOX_READY:
            assert empty.run("exit", "5").wait().exit_code == 5
        state = node.cri.status(container.id).state
        if away < CONTAINERD_WAITS - 1:
            assert state == pb.CONTAINER_RUNNING
        if seconds > CONTAINERD_WAITS:
            assert state == pb.CONTAINER_EXITED
        if state == pb.CONTAINER_RUNNING:
            assert pid_of(container) == pid
            assert pod.run("exit", "5").wait().exit_code == 5
            return
        until("its end", lambda: not node.sandboxer.workers())
        assert node.cri.pod_status(pod.id).state == pb.SANDBOX_NOTREADY  # or the kubelet would start containers in it
    with node.pod() as pod:
        assert pod.run("exit", "5").wait().exit_code == 5
