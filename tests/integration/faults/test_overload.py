"""Overload: one call too many is refused at once, and reads are still answered."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from sandbox_api import calls
from sandbox_api.errors import ResourceExhausted
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.ttrpc.server import MAX_IN_FLIGHT
from supervisor.services.tasks import FEW_STARTS, MAX_STARTS, MAX_STARTS_OF_A_SANDBOX

from ...harness.container import Container, Pod
from ...harness.daemon import Daemon
from ...harness.helpers import forkserver

AT_ONCE = 1.0
"""Seconds: far less than what is under way takes, far more than an answer."""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("--log-level", "warning") as running:
        yield running


def test_beyond_the_bound_on_starts(daemon: Daemon) -> None:
    """As many as there may be wait for the forkserver; then they all come, and meanwhile questions are answered.

    Two sandboxes fill the bound: a third has a few starts all the same.
    """
    pod = Pod(daemon)
    server = forkserver(daemon)
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    waiter = ends.wait_later().arrived()
    others = [Pod(daemon) for _ in range(MAX_STARTS // MAX_STARTS_OF_A_SANDBOX)]
    bundles = [each.with_wasm("exit").args("5").write().bundle for each in (*others, pod)]
    with runs.connect() as starter, runs.connect() as waits:
        names = [f"many{number}" for number in range(MAX_STARTS + FEW_STARTS + 1)]
        for number, name in enumerate(names):
            bundle = bundles[number // MAX_STARTS_OF_A_SANDBOX]
            starter.call("Create", pb.CreateTaskRequest(id=name, bundle=str(bundle)))
        server.suspend()
        try:
            started = [starter.send("Start", pb.StartRequest(id=name)) for name in names[:-1]]
            begun = time.monotonic()
            with pytest.raises(ResourceExhausted, match=f"{names[-1]}: {MAX_STARTS + FEW_STARTS} starts are under way"):
                starter.call("Start", pb.StartRequest(id=names[-1]))
            assert time.monotonic() - begun < AT_ONCE + 2  # behind those before it on its connection
            answered_at_once(pod, runs)
        finally:
            server.resume()
        ends.kill(signal.SIGTERM)
        begun = time.monotonic()
        assert waiter.result().exit_status == 143
        assert time.monotonic() - begun < AT_ONCE
        pending = [waits.send("Wait", pb.WaitRequest(id=name)) for name in names[:-1]]
        while runs.connection.call("State", pb.StateRequest(id=names[-2])).status != pb.STOPPED:
            answered_at_once(pod, runs)
        for stream in started:
            starter.receive(stream, "Start")
        assert {waits.receive(stream, "Wait").exit_status for stream in pending} == {5}
        starter.call("Start", pb.StartRequest(id=names[-1]))
        assert starter.call("Wait", pb.WaitRequest(id=names[-1])).exit_status == 5
    for each in (*others, pod):
        each.shutdown()
        each.close()


def answered_at_once(pod: Pod, container: Container) -> None:
    """State and Status do not wait for what is under way."""
    begun = time.monotonic()
    assert container.status() == "RUNNING"
    assert pod.api.status(pod.id).state == "SANDBOX_READY"
    assert time.monotonic() - begun < AT_ONCE


def test_two_thousand_waits_share_a_connection(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    with container.connect() as shared:
        pending = [shared.send("Wait", pb.WaitRequest(id=container.id)) for _ in range(2000)]
        shared.call("Kill", pb.KillRequest(id=container.id, signal=signal.SIGTERM))
        assert {shared.receive(stream, "Wait").exit_status for stream in pending} == {143}


def test_beyond_the_bounds(daemon: Daemon) -> None:
    pod = Pod(daemon)
    server = forkserver(daemon)
    container = pod.with_wasm("sleep").build().start()
    created = pod.with_wasm("exit").build()
    waiter = container.wait_later()
    change = pb.KillRequest(id=container.id, signal=signal.SIGWINCH)
    busy = [container.connect() for _ in range(calls.MAX_CHANGES // MAX_IN_FLIGHT)]
    server.suspend()  # whatever needs it takes its time
    try:
        sent = [(each, [each.send("Kill", change) for _ in range(MAX_IN_FLIGHT)]) for each in busy]
        for each in busy:  # on each there are as many as there may be
            begun = time.monotonic()
            with pytest.raises(ResourceExhausted, match="on this connection"):
                each.call("Kill", change)
            assert time.monotonic() - begun < AT_ONCE
        begun = time.monotonic()
        with pytest.raises(ResourceExhausted, match="calls are under way"):
            created.start()
        assert time.monotonic() - begun < AT_ONCE
        answered_at_once(pod, container)
    finally:
        server.resume()
    for each, streams in sent:
        for stream in streams:
            each.receive(stream, "Kill")
        each.close()
    assert created.start().wait() == 0
    container.kill(signal.SIGTERM)
    assert waiter.result().exit_status == 143
    pod.shutdown()
    pod.close()
