"""Clients of gRPC at the relay: their bytes go to the server behind it and back, whatever they are."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.protocol import pack, pack_numbers, send
from workers.relay_protocol import FORWARD, STAND

from .leaks import nothing_left_open
from .relaying import SECONDS, Relay

LIMIT = 256
ROOM = LIMIT // 16
"""Clients that a relay of so many descriptors lets in."""


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with nothing_left_open():
        made = Relay(tmp_path, open_files=LIMIT)
        yield made
        made.stop()


class Behind:
    """The server behind a relay, and the address of its clients."""

    def __init__(self, relay: Relay, folder: Path) -> None:
        self._server, self._address = socket.socket(socket.AF_UNIX), str(folder / "clients")
        self._server.bind(str(folder / "server"))
        self._server.listen()
        self._server.settimeout(SECONDS)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen()
            body = pack([pack_numbers(1), os.fsencode(folder / "server")])
            send(relay.connection, FORWARD, body, [listener.fileno()])

    def client(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(SECONDS)
        made.connect(self._address)
        return made

    def accept(self) -> socket.socket:
        made, _ = self._server.accept()
        made.settimeout(SECONDS)
        return made

    def waits(self) -> bool:
        """Whether nobody else comes in."""
        return not select.select([self._server], [], [], 0.3)[0]

    def close(self) -> None:
        self._server.close()


def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(1 << 16)):
        data += more
    return data


def test_bytes_of_any_kind_pass_both_ways_unchanged(relay: Relay, tmp_path: Path) -> None:
    behind = Behind(relay, tmp_path)
    for data in (b"\0", b"\xff" * 9, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff", os.urandom(3000)):
        with behind.client() as client, behind.accept() as server:
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(data)
                assert received(receiver, len(data)) == data
    behind.close()


def test_a_client_that_does_not_read_holds_up_itself_alone(relay: Relay, tmp_path: Path) -> None:
    behind = Behind(relay, tmp_path)
    with behind.client(), behind.accept() as server:
        server.setblocking(False)
        sent = 0
        while select.select([], [server], [], 0.3)[1]:
            sent += server.send(bytes(1 << 16))
        assert sent < 4 << 20
        with behind.client() as other, behind.accept() as theirs:
            other.sendall(b"x")
            assert received(theirs, 1) == b"x"
        assert relay.passes_a_byte()
    behind.close()


def test_clients_beyond_its_share_wait_until_others_hang_up(relay: Relay, tmp_path: Path) -> None:
    behind = Behind(relay, tmp_path)
    clients = [behind.client() for _ in range(ROOM + 3)]
    servers = [behind.accept() for _ in range(ROOM)]
    assert behind.waits()
    assert relay.passes_a_byte()
    for each in (*clients[:3], *servers[:3]):
        each.close()
    servers = servers[3:] + [behind.accept() for _ in range(3)]
    clients[-1].sendall(b"late")
    assert received(servers[-1], 4) == b"late"
    for each in (*clients, *servers):
        each.close()
    behind.close()


def test_a_client_that_was_handed_over_twice_is_let_in_once(relay: Relay, tmp_path: Path) -> None:
    """A supervisor died in the hand-over, and the next one was given the client by both relays."""
    client, handed = socket.socketpair()
    for _ in range(2):
        relay.tell(STAND, 1, fds=(handed.fileno(),))
    handed.close()
    behind = Behind(relay, tmp_path)
    with client, behind.accept() as server:
        assert behind.waits()
        client.sendall(b"bytes")
        assert received(server, 5) == b"bytes"
        server.close()
        assert client.recv(1) == b""
    behind.close()
