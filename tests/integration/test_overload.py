"""More calls than can be under way: the one too many is refused at once, and whoever only asks is still answered."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from sandbox_api import calls
from sandbox_api.errors import ResourceExhausted
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.ttrpc.server import MAX_IN_FLIGHT

from ..harness.container import Pod
from ..harness.daemon import Daemon
from .test_recovery import forkserver

AT_ONCE = 1.0
"""Seconds: far less than what is under way takes, far more than an answer."""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("--log-level", "warning") as running:
        yield running


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
        assert container.status() == "RUNNING"
        assert pod.api.status(pod.id).state == "SANDBOX_READY"
        assert time.monotonic() - begun < AT_ONCE
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
