"""SIGTERM while calls are under way: what changes something is answered, what only waits ends with UNAVAILABLE."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message

from sandbox_api.errors import Unavailable
from sandbox_api.proto import controller_pb2
from sandbox_api.proto import task_pb2 as pb

from ...harness.container import Container, Pod
from ...harness.daemon import Daemon

ENDING = "the sandboxer is stopping: try again"


def wait_over_grpc(container: Container) -> grpc.Future:
    """A Wait for a task, over the gRPC socket that tasks have, too; the daemon has it when this returns."""
    channel = grpc.insecure_channel(f"unix:{container.pod.daemon.dir}/task-grpc.sock")

    def call(method: str, request: Message) -> grpc.Future:
        stub = channel.unary_unary(f"/containerd.task.v3.Task/{method}")
        metadata = (("containerd-namespace", container.pod.namespace),)
        return stub.future(request.SerializeToString(), timeout=60, metadata=metadata)

    wait = call("Wait", pb.WaitRequest(id=container.id))
    call("State", pb.StateRequest(id=container.id)).result()  # what is answered on this connection came after it
    return wait


def test_waits_end_with_unavailable_at_once(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    sandboxes = [pod.api.wait(pod.id) for _ in range(3)]
    pod.api.status(pod.id)
    task = wait_over_grpc(container)
    kept = container.wait_later().arrived()
    begun = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begun < 5
    for each in sandboxes:
        with pytest.raises(Unavailable, match=ENDING):
            each()
    assert (task.code(), task.details()) == (grpc.StatusCode.UNAVAILABLE, ENDING)
    daemon.start()
    again = pod.api.wait(pod.id)
    container.reconnect().kill(signal.SIGTERM)
    assert kept.result().exit_status == 143
    pod.stop()
    assert again().exit_status == 0


def test_changes_under_way_are_answered(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    container.connection.call("Pause", pb.PauseRequest(id=container.id))  # so that SIGTERM does not end it yet
    other = pod.with_wasm("hello").build()
    stop = pod.api.future("Stop", controller_pb2.ControllerStopRequest(sandbox_id=pod.id, timeout_secs=2))
    assert other.wait() == 143  # Stop is at work
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    with pytest.raises(Unavailable, match=ENDING):
        until_refused(lambda: container.kill(signal.SIGWINCH))
    assert container.status() == "PAUSED"  # questions are answered meanwhile
    stop()
    assert daemon.process.wait(20) == 0
    daemon.process = None
    daemon.start()
    # Of one that waits in a futex, as Wasmtime's do, the kernel takes SIGTERM while it is frozen: then it counts.
    assert container.reconnect().wait() in (128 + signal.SIGKILL, 128 + signal.SIGTERM)
    assert pod.api.status(pod.id).state == "SANDBOX_NOTREADY"
    pod.shutdown()


def until_refused(change: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        change()
