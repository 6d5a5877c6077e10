"""A module's start section is the guest's own code: it counts as running, and holds nobody up."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from sandbox_api.errors import InvalidArgument, ResourceExhausted, Unavailable
from sandbox_api.proto import task_pb2 as pb
from supervisor.services.tasks import MAX_STARTS, MAX_STARTS_OF_A_SANDBOX

from ..harness import modules
from ..harness.container import Connection, Pod
from ..harness.daemon import Daemon
from ..harness.helpers import forkserver

SOON = 15.0
"""Seconds: far more than an answer takes on a busy machine, far less than what waits here."""


@pytest.fixture(scope="module", params=["never", "always"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with Daemon("--aot", request.param, "--log-level", "warning") as running:
        yield running


def test_start_follows_the_start_section(pod: Pod) -> None:
    assert pod.with_wasm(modules.start_section(b"\x01")).build().start().wait() == 5


def test_trap_is_the_guests_exit(pod: Pod) -> None:
    container = pod.with_wasm(modules.start_section(modules.TRAP)).build().start()
    assert container.wait() == 134
    assert container.stderr() == "wasm trap: unreachable\n"


def test_proc_exit_is_the_guests_exit(pod: Pod) -> None:
    container = pod.with_wasm(modules.start_section(modules.EXIT_7)).build().start()
    assert (container.wait(), container.stderr()) == (7, "")


def test_missing_import_is_refused_all_the_same(pod: Pod) -> None:
    container = pod.with_wasm(modules.start_section(modules.WAIT, missing=True)).build()
    with pytest.raises(InvalidArgument, match="unknown import"):
        container.start()
    assert container.status() == "CREATED"


@pytest.mark.parametrize("code", [modules.WAIT, modules.LOOP])
def test_start_answers_while_it_runs(pod: Pod, code: bytes) -> None:
    container = pod.with_wasm(modules.start_section(code)).build()
    begun = time.monotonic()
    container.start()
    assert time.monotonic() - begun < SOON
    assert container.status() == "RUNNING"
    container.kill(signal.SIGKILL)
    assert container.wait() == 137


def test_waiting_start_sections_refuse_no_other_sandbox(daemon: Daemon, pod: Pod) -> None:
    bundle = pod.with_wasm(modules.start_section(modules.WAIT)).write().bundle
    neighbour = Pod(daemon)
    other = neighbour.with_wasm("exit").args("4").build()
    with other.connect() as connection:
        names = [f"waits{number}" for number in range(MAX_STARTS)]
        for name in names:
            connection.call("Create", pb.CreateTaskRequest(id=name, bundle=str(bundle)))
        streams = [connection.send("Start", pb.StartRequest(id=name)) for name in names]
        begun = time.monotonic()
        assert other.start().wait() == 4
        assert time.monotonic() - begun < SOON
        assert sum(started(connection, stream) for stream in streams) >= MAX_STARTS_OF_A_SANDBOX
    neighbour.shutdown()
    neighbour.close()


def test_looping_start_sections_delay_neighbours_by_scheduling_alone(daemon: Daemon, pod: Pod) -> None:
    containers = [pod.with_wasm(modules.start_section(modules.LOOP)).build() for _ in range(16)]
    streams = [each.connection.send("Start", pb.StartRequest(id=each.id)) for each in containers]
    neighbour = Pod(daemon)
    begun = time.monotonic()
    assert neighbour.with_wasm("exit").args("4").build().start().wait() == 4
    assert time.monotonic() - begun < SOON
    for container, stream in zip(containers, streams, strict=True):
        container.connection.receive(stream, "Start")
        assert container.status() == "RUNNING"
    neighbour.shutdown()
    neighbour.close()


def test_sigterm_does_not_wait_for_start_sections() -> None:
    with Daemon() as daemon:
        pod = Pod(daemon)
        containers = [pod.with_wasm(modules.start_section(modules.WAIT)).build() for _ in range(20)]
        streams = [each.connection.send("Start", pb.StartRequest(id=each.id)) for each in containers]
        containers[0].connection.receive(streams[0], "Start")
        begun = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - begun < SOON
        daemon.start()
        assert containers[0].reconnect().status() == "RUNNING"


def test_sigterm_undoes_a_start_that_nothing_comes_of() -> None:
    with Daemon() as daemon:
        pod = Pod(daemon)
        pod.with_wasm("exit").args("0").build().start().wait()
        container = pod.with_wasm("sleep").build()
        server = forkserver(daemon)
        server.suspend()
        stream = container.connection.send("Start", pb.StartRequest(id=container.id))
        container.connection.call("State", pb.StateRequest(id=container.id))  # it came after
        begun = time.monotonic()
        try:
            assert daemon.stop() == 0
        finally:
            server.resume()
        assert time.monotonic() - begun < SOON
        with pytest.raises(Unavailable, match="stopping: try again"):
            container.connection.receive(stream, "Start")
        daemon.start()
        assert container.reconnect().status() == "CREATED"
        assert daemon.workers() == []
        container.start()
        assert container.status() == "RUNNING"


def started(connection: Connection, stream: int) -> bool:
    try:
        connection.receive(stream, "Start")
    except ResourceExhausted:
        return False
    return True
