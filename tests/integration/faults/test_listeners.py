"""Listening sockets outlive the supervisor: clients that come while it is away wait for the next one."""

from __future__ import annotations

import signal
import socket

import pytest

from sandbox_api.proto import task_pb2 as pb

from ...harness.api import Api
from ...harness.compiled import until
from ...harness.container import Pod
from ...harness.daemon import Daemon
from ...harness.helpers import relay

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # RFC 9113: and a frame of no settings
PING = b"\0\0\x08\6\0\0\0\0\0" + b"whatever"


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_calls_while_no_supervisor_is_there_are_answered_by_the_next(daemon: Daemon, pod: Pod, how: str) -> None:
    container = pod.with_wasm("exit").args("4").build()
    getattr(daemon, how)()
    connection = container.connect()
    stream = connection.send("Start", pb.StartRequest(id=container.id))
    api = Api(daemon.listen)
    states = [api.future("Status", api.status_request(pod.id)) for _ in range(3)]
    daemon.start()
    assert [state().state for state in states] == ["SANDBOX_READY"] * 3
    assert connection.receive(stream, "Start").pid > 0
    assert container.reconnect().wait() == 4
    connection.close()
    api.close()


def test_a_killed_supervisor_resets_no_connection(daemon: Daemon, pod: Pod) -> None:
    """Also where it had requests that it had not read (unix(7): ECONNRESET)."""
    for _ in range(3):
        clients = []
        for path in (daemon.listen, daemon.dir / "task-grpc.sock"):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(20)
            client.connect(str(path))
            client.sendall(PREFACE)
            assert client.recv(9)
            clients.append(client)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        for client in clients:
            client.sendall(PING * 1000)
        daemon.kill()
        for client in clients:
            try:
                client.sendall(PING)
            except BrokenPipeError:
                pass
            while client.recv(1 << 16):  # raises ConnectionResetError
                pass
            client.close()
        daemon.start()
    assert pod.api.status(pod.id).state == "SANDBOX_READY"


def test_sockets_go_with_the_last_sandbox(daemon: Daemon, pod: Pod) -> None:
    sockets = (daemon.listen, daemon.task_socket, daemon.dir / "task-grpc.sock")
    daemon.stop()
    assert all(path.is_socket() for path in sockets)
    daemon.start()
    pod.shutdown()
    daemon.stop()
    assert not any(path.exists() for path in sockets)
    until("the relay's end", lambda: not daemon.helpers())


def test_a_new_relay_has_the_same_sockets(daemon: Daemon, pod: Pod) -> None:
    inode = daemon.listen.stat().st_ino
    relay(daemon).kill()
    assert pod.api.retried("Status", pod.api.status_request(pod.id)).state == "SANDBOX_READY"
    assert daemon.listen.stat().st_ino == inode
    daemon.kill()
    daemon.start()
    assert daemon.listen.stat().st_ino == inode
    assert pod.with_wasm("exit").args("4").build().start().wait() == 4


def test_another_address_is_another_socket(daemon: Daemon, pod: Pod) -> None:
    daemon.kill()
    before = daemon.listen
    daemon.listen_as("other.sock")
    daemon.start()
    assert not before.exists()
    api = Api(daemon.listen)
    assert api.status(pod.id).state == "SANDBOX_READY"
    api.close()


def test_relay_and_supervisor_die_together(daemon: Daemon, pod: Pod) -> None:
    held = relay(daemon)
    daemon.kill()
    held.kill()
    held.wait(10)
    daemon.start()
    assert pod.with_wasm("exit").args("4").build().start().wait() == 4
