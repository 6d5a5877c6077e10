"""Events, forwarded to a receiver as containerd's: in order, and whole when it was away."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.events import Publisher
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto.events_pb2 import TaskOOM

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.receiver import Receiver

pytestmark = pytest.mark.engines


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ev") / "s"


@pytest.fixture
def publishing(path: Path) -> Iterator[Daemon]:
    with Daemon("--events", str(path)) as daemon:
        yield daemon


def test_a_containers_life_is_told_in_order(publishing: Daemon, path: Path) -> None:
    receiver = Receiver(path)
    try:
        pod = Pod(publishing, namespace="k8s.io")
        builder = pod.with_wasm("sleep")
        shutil.copy(guest("exit"), builder.rootfs / "exit.wasm")
        container = builder.build().start()
        container.add_exec("e", "/exit.wasm", "2").start("e")
        container.wait("e")
        container.delete("e")
        container.connection.call("Pause", pb.PauseRequest(id=container.id))
        container.connection.call("Resume", pb.ResumeRequest(id=container.id))
        container.kill(signal.SIGTERM)
        container.wait()
        container.delete()
        told = receiver.take(10)
        assert [topic for _, topic, _ in told] == [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/delete",
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/exit",
            "/tasks/delete",
        ]
        assert {namespace for namespace, _, _ in told} == {"k8s.io"}
        assert {event.container_id for _, _, event in told} == {container.id}
        create, start, exec_exit, init_exit = told[0][2], told[1][2], told[4][2], told[8][2]
        assert (create.bundle, create.io.stdout) == (str(container.bundle), f"file://{container.bundle}/stdout")
        assert start.pid == container.pid
        assert (exec_exit.id, exec_exit.exit_status) == ("e", 2)
        assert (init_exit.id, init_exit.exit_status) == (container.id, 143)
        assert init_exit.exited_at.ToNanoseconds() > 0
        pod.shutdown()
        pod.close()
    finally:
        receiver.close()


def test_the_end_of_a_container_that_never_ran_is_told(publishing: Daemon, path: Path) -> None:
    """As runc's shim tells it, whose created containers have a process."""
    receiver = Receiver(path)
    try:
        pod = Pod(publishing)
        container = pod.with_wasm("sleep").build()
        container.kill(signal.SIGKILL)
        _, (_, topic, event) = receiver.take(2)
        assert (topic, event.id, event.exit_status) == ("/tasks/exit", container.id, 137)
        pod.shutdown()
        pod.close()
    finally:
        receiver.close()


def test_a_receiver_that_is_away_holds_nothing_up_and_loses_nothing(publishing: Daemon, path: Path) -> None:
    pod = Pod(publishing)
    first = pod.with_wasm("hello").build().start()
    assert first.wait() == 0
    receiver = Receiver(path)
    try:
        assert [topic for _, topic, _ in receiver.take(3)] == ["/tasks/create", "/tasks/start", "/tasks/exit"]
        receiver.close()
        first.delete()
        second = pod.with_wasm("hello").build()
        receiver = Receiver(path)
        told = receiver.take(2)
        assert [(topic, event.container_id) for _, topic, event in told] == [
            ("/tasks/delete", first.id),
            ("/tasks/create", second.id),
        ]
        pod.shutdown()
        pod.close()
    finally:
        receiver.close()


def test_events_that_may_be_wanted_are_kept_from_when_the_socket_is_there(path: Path) -> None:
    """As with ``--events auto``, whose socket is containerd's."""

    async def run() -> list[str]:
        publisher = Publisher(str(path), optional=True)
        forwarding = asyncio.ensure_future(publisher.run())
        publisher.publish("ns", "/before", TaskOOM(container_id="c"), 1)
        receiver = Receiver(path)
        try:
            publisher.publish("ns", "/first", TaskOOM(container_id="c"), 2)
            told = await asyncio.to_thread(receiver.take, 1)
        finally:
            receiver.close()
            forwarding.cancel()
        return [topic for _, topic, _ in told]

    assert asyncio.run(run()) == ["/first"]
