"""Forkserver and relay have no more descriptors: who needs one is told, nothing is cut off, and it comes back."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from sandbox_api.errors import ResourceExhausted
from sandbox_api.proto import controller_pb2

from ...harness.api import Api
from ...harness.container import Collected, Pod
from ...harness.daemon import Daemon
from ...harness.helpers import forkserver, relay, started_in_time, zygote


@contextmanager
def at_its_limit(process: psutil.Process, more: int = 0) -> Iterator[None]:
    """The process may have only as many descriptors as it has, and this many more."""
    before = process.rlimit(resource.RLIMIT_NOFILE)
    first_free = next(number for number in range(1 << 16) if not os.path.exists(f"/proc/{process.pid}/fd/{number}"))
    process.rlimit(resource.RLIMIT_NOFILE, (first_free + more, before[1]))
    try:
        yield
    finally:
        if process.is_running():
            process.rlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("more", [0, 1, 3])
def test_in_the_forkserver(daemon: Daemon, pod: Pod, more: int) -> None:
    server = forkserver(daemon)
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    created = pod.with_wasm("exit").args("4").build()
    waiter = ends.wait_later().arrived()
    with at_its_limit(server, more):
        for _ in range(3):
            with pytest.raises(ResourceExhausted, match=r"Too many open files.*the forkserver's open-file limit"):
                created.start()
        assert (runs.status(), created.status()) == ("RUNNING", "CREATED")
        ends.kill(signal.SIGTERM)
        assert waiter.result().exit_status == 143
    assert created.start().wait() == 4
    assert forkserver(daemon) == server
    pod.shutdown()


@pytest.mark.parametrize("more", [0, 1, 5])
def test_in_the_zygote(daemon: Daemon, pod: Pod, more: int) -> None:
    """Its limit is the forkserver's of when it was forked: one that has less makes room for a new one."""
    runs = pod.with_wasm("sleep").build().start()
    first = zygote(daemon)
    with at_its_limit(first, more):
        assert pod.with_wasm("exit").args("4").build().start().wait() == 4
        assert runs.status() == "RUNNING"
    assert zygote(daemon) != first
    pod.shutdown()


def test_a_zygote_is_forked_where_there_is_just_room_for_it(daemon: Daemon, pod: Pod) -> None:
    server = forkserver(daemon)
    created = pod.with_wasm("exit").args("4").build()
    refused = 0
    for more in range(16):
        with at_its_limit(server, more):
            try:
                created.start()
                break
            except ResourceExhausted:
                assert created.status() == "CREATED"
                refused += 1
    assert created.wait() == 4
    assert refused > 3
    assert forkserver(daemon) == server
    pod.shutdown()


def test_a_new_supervisor_joins_a_forkserver_that_has_no_more(daemon: Daemon, pod: Pod) -> None:
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    server = forkserver(daemon)
    daemon.kill()
    with at_its_limit(server), at_its_limit(relay(daemon)):
        os.kill(ends.pid, signal.SIGTERM)
        daemon.start()
        assert [ends.reconnect().wait(), runs.reconnect().status()] == [143, "RUNNING"]
        daemon.kill()
        daemon.start()
    assert forkserver(daemon) == server
    assert pod.with_wasm("hello").build().start().wait() == 0
    runs.reconnect().kill(signal.SIGTERM)
    assert runs.wait() == 143
    pod.shutdown()


@pytest.mark.parametrize("more", [0, 1, 3])
def test_in_the_relay(daemon: Daemon, pod: Pod, more: int) -> None:
    """No guest is started whose input nobody would feed, and those that are fed go on."""
    runs = pod.with_wasm("cat").fifos("stdin", "stdout").build()
    output = Collected(runs.bundle / "stdout")
    waiter = runs.start().wait_later().arrived()
    terminal, refused = (
        pod.with_wasm("cat").terminal().fifos("stdin", "stdout").streams(stderr="").build() for _ in range(2)
    )
    fed = pod.with_wasm("cat").fifos("stdin").build()
    screen = Collected(terminal.bundle / "stdout")
    keeper = relay(daemon)
    held = keeper.num_fds()
    with at_its_limit(keeper, more):
        with pytest.raises(ResourceExhausted, match="the relay has too many open files"):
            refused.start()
        if more < 2:
            with pytest.raises(ResourceExhausted, match="the relay has too many open files"):
                fed.start()
        others = [pod.with_wasm("sleep").build().start() for _ in range(3)]
        late = [each.wait_later().arrived() for each in others]  # nobody keeps their connections: served they are
        (runs.bundle / "stdin").write_text("still fed")
        assert waiter.result().exit_status == 0
    assert output.text() == "still fed"
    terminal.start()
    with (terminal.bundle / "stdin").open("w") as stdin:
        stdin.write("typed\n\x04")
        stdin.flush()
        assert terminal.wait() == 0
    assert screen.text() == "typed\r\ntyped\r\n"
    others[0].kill(signal.SIGTERM)
    assert late[0].result().exit_status == 143
    pod.shutdown()
    for each in others:
        each.connection.close()
    for each in late[1:]:
        assert each.result().exit_status == 137
    assert relay(daemon) == keeper
    deadline = time.monotonic() + 5
    while keeper.num_fds() > held:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_relay_dies_and_connections_outlive_the_supervisor_even_so(daemon: Daemon, pod: Pod) -> None:
    runs = pod.with_wasm("sleep").build().start()
    fed = pod.with_wasm("cat").fifos("stdin").build().start()
    waiter = runs.wait_later().arrived()
    first = relay(daemon)
    first.kill()
    assert fed.wait() == 0  # it sees the end of its input
    fed = started_in_time(pod.with_wasm("cat").fifos("stdin").build())
    daemon.kill()
    daemon.start()
    (fed.bundle / "stdin").write_text("fed")
    assert fed.reconnect().wait() == 0
    runs.reconnect().kill(signal.SIGTERM)
    assert waiter.result().exit_status == 143  # on the connection from before both deaths
    assert "the relay died" in daemon.log_text()
    pod.shutdown()


def test_grpc_clients_leave_the_relay_room_for_inputs() -> None:
    """Those that it does not let in wait in the queue, until others hang up."""
    few = Daemon()
    few.prefix = ["prlimit", "--nofile=1024:1024"]
    with few as daemon:
        pod = Pod(daemon)
        clients = []
        for _ in range(80):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].connect(str(daemon.listen))
            clients[-1].send(b"PRI * HTTP/2.0\r\n")  # the beginning of a beginning
        container = pod.with_wasm("cat").fifos("stdin").build().start()
        (container.bundle / "stdin").write_text("fed")
        assert container.wait() == 0
        assert relay(daemon).num_fds() < 512
        late = Api(daemon.listen)
        for client in clients:
            client.close()
        assert late.call("Platform", controller_pb2.ControllerPlatformRequest(sandbox_id=pod.id)).platform.os
        late.close()
        pod.shutdown()
        pod.close()
