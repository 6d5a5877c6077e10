"""A daemon that ends within a frame of a connection that is kept: the next one misreads nothing, and no client waits
for ever."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios

import pytest

from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import ttrpc_pb2
from sandbox_api.ttrpc import frames

from ...harness.compiled import until
from ...harness.container import Container, Pod
from ...harness.daemon import Daemon
from ...harness.ttrpc import Connection

SECONDS = 20
READ_IN_PIECES = 1 << 17
"""Bytes of a request that is read before it is whole."""


def frame(stream: int, method: str, message: pb.KillRequest | pb.ExecProcessRequest) -> bytes:
    request = ttrpc_pb2.Request(
        service="containerd.task.v2.Task", method=method, payload=message.SerializeToString()
    ).SerializeToString()
    return frames.encode(stream, frames.REQUEST, request)


def waiting(container: Container) -> tuple[Connection, int]:
    """A connection that is kept, and its Wait's stream."""
    connection = container.connect()
    connection.sock.settimeout(SECONDS)
    stream = connection.send("Wait", pb.WaitRequest(id=container.id))
    connection.call("State", pb.StateRequest(id=container.id))
    return connection, stream


def unread(sock: socket.socket) -> int:
    """Bytes of memory with what the server has not taken yet."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def hears_the_end(connection: Connection) -> bool:
    """Read all that comes; whether it ends. Raises ``TimeoutError``, and ``BrokenFrame``."""
    decoder = frames.Decoder()
    try:
        while data := connection.sock.recv(1 << 16):
            list(decoder.feed(data))
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("rest", ["less than a header", "a request of its own"])
def test_a_request_of_which_a_part_was_read_closes_its_connection(
    daemon: Daemon, pod: Pod, how: str, rest: str
) -> None:
    """The rest is no request, even where it looks like one."""
    container = pod.with_wasm("sleep").build().start()
    other = container.wait_later(timeout=SECONDS).arrived()
    connection, _ = waiting(container)
    looks_like_one = frame(103, "Kill", pb.KillRequest(id=container.id, signal=signal.SIGKILL))
    second = looks_like_one if rest == "a request of its own" else b"rest"
    request = pb.ExecProcessRequest(id=container.id, exec_id="e")
    request.spec.value = bytes(READ_IN_PIECES) + second
    whole = frame(101, "Exec", request)
    assert whole.endswith(second)
    connection.sock.sendall(whole[: -len(second)])
    until("it is read", lambda: unread(connection.sock) == 0)
    getattr(daemon, how)()
    daemon.start()
    try:
        connection.sock.sendall(second)
    except BrokenPipeError:
        pass
    assert hears_the_end(connection)
    connection.close()
    assert container.reconnect().status() == "RUNNING"
    container.kill(signal.SIGTERM)
    assert other.result().exit_status == 143, "the others are kept"


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_client_that_had_not_read_its_answers_hears_the_end(daemon: Daemon, pod: Pod, how: str) -> None:
    """Those that its socket had no room for are lost with the daemon."""
    container = pod.with_wasm("sleep").build().start()
    connection, _ = waiting(container)
    while select.select([], [connection.sock], [], 1)[1]:  # until the daemon reads no more
        connection.send("State", pb.StateRequest(id=container.id))
    getattr(daemon, how)()
    daemon.start()
    assert hears_the_end(connection)
    connection.close()
    os.kill(container.pid, signal.SIGTERM)
    assert container.reconnect().wait() == 143
