"""Waits that were noted just before the supervisor was killed: answered, or cut off; none waits for ever."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sandbox_api.ttrpc import connection

from ...harness.container import Container, Pod, Waiter
from ...harness.daemon import Daemon
from ...harness.helpers import relay

SENDABLE = 100
"""Connections that fit into the relay's socket while it is stopped."""


def answered(waiters: list[Waiter]) -> int:
    """How many were answered rightly; the others were cut off. Raises ``TimeoutError`` where one hangs."""
    statuses = []
    for waiter in waiters:
        try:
            statuses.append(waiter.result().exit_status)
        except (EOFError, ConnectionResetError):
            pass
    assert set(statuses) <= {143}
    return len(statuses)


def wait_often(container: Container, count: int) -> list[Waiter]:
    return [container.wait_later(timeout=20).arrived() for _ in range(count)]


@pytest.mark.parametrize("count", [SENDABLE, 600])
def test_waits_that_the_relay_had_not_read_when_the_supervisor_was_killed(daemon: Daemon, pod: Pod, count: int) -> None:
    """What is in its socket it reads before it answers the next supervisor; what never got there is cut off."""
    container = pod.with_wasm("sleep").build().start()
    stopped = relay(daemon)
    stopped.suspend()
    waiters = wait_often(container, count)
    daemon.kill()
    daemon.launch()
    time.sleep(1.5)  # it has asked the relay for what that has
    stopped.resume()
    container.reconnect()
    os.kill(container.pid, signal.SIGTERM)
    told = answered(waiters)
    assert told == count if count == SENDABLE else SENDABLE <= told < count


@pytest.mark.parametrize("where", ["reserve", "begin", "keep"])
def test_a_supervisor_that_dies_while_it_notes_the_first_wait(daemon: Daemon, pod: Pod, where: str) -> None:
    """The connection is cut off, or kept with its Wait; never kept without it."""
    assert hasattr(connection.Keeper, where)
    container = pod.with_wasm("sleep").build().start()
    daemon.kill()
    program = (
        "import os, signal, sys; from supervisor.ipc.relay import RelayClient; from supervisor.cli import main\n"
        f"step = RelayClient.{where}\n"
        "def die(*arguments):\n"
        "    step(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"RelayClient.{where} = die\n"
        "main(prog_name='wasm-sandboxer')\n"
    )
    daemon.program = ["-c", program]
    daemon.start()
    waiter = container.reconnect().wait_later(timeout=20)
    assert daemon.process is not None
    daemon.process.wait(20)
    daemon.process = None
    daemon.program = ["-m", "supervisor"]
    daemon.start()
    os.kill(container.pid, signal.SIGTERM)
    assert answered([waiter]) == (where == "keep")
