"""Clients' connections in the relay: kept open with what is pending on them, for the next supervisor."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.protocol import Reader, pack_numbers, unpack_numbers
from workers.relay_protocol import (
    ALL,
    DROP,
    FULL,
    HELD,
    HELLO,
    HOLD,
    INPUT,
    KEEP,
    KEPT,
    LOWEST_VERSION,
    PUMP,
    TAKE,
    TAKEN,
    WELCOME,
)

from .leaks import nothing_left_open
from .relaying import SECONDS, Relay, read_all

OPEN_FILES = 64  # of which a relay keeps half for connections and pumps where there are so few


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with nothing_left_open():
        made = Relay(tmp_path, open_files=OPEN_FILES)
        yield made
        made.stop()


def keep(relay: Relay, key: int) -> socket.socket:
    """Have a connection kept; the client's end of it."""
    client, ours = socket.socketpair()
    client.settimeout(SECONDS)
    relay.tell(KEEP, key, fds=(ours.fileno(),))
    ours.close()
    return client


def take(relay: Relay) -> list[int]:
    """Ask for what is kept; its numbers."""
    relay.tell(TAKE)
    return taken(relay)


def taken(relay: Relay) -> list[int]:
    """The numbers of what is kept, as the relay tells them."""
    reader = Reader(relay.connection)
    kept: list[int] = []
    while reader.receive():
        for frame in reader.frames():
            if frame.kind == KEPT:
                kept += unpack_numbers(frame.body)
                assert len(frame.fds) == 1
            frame.close()
            if frame.kind == TAKEN:
                return kept
    raise EOFError


def is_closed(client: socket.socket) -> bool:
    """Wait until nobody holds the other end."""
    return client.recv(1) == b""


def test_connections_are_kept_until_dropped_or_closed(relay: Relay) -> None:
    clients = [keep(relay, key) for key in (1, 2)]
    assert take(relay) == [1, 2]
    assert take(relay) == [1, 2]
    relay.tell(DROP, 1)
    assert is_closed(clients[0])
    clients[1].close()
    assert relay.passes_a_byte()
    assert take(relay) == []
    clients[0].close()


def test_both_sides_say_their_versions(relay: Relay) -> None:
    relay.tell(HELLO, 1, 99)
    reader = Reader(relay.connection)
    assert reader.receive()
    (welcome,) = reader.frames()
    assert welcome.kind == WELCOME
    lowest, highest, lowest_keeping, highest_keeping = unpack_numbers(welcome.body)
    assert 1 < lowest == LOWEST_VERSION <= highest
    assert 1 == lowest_keeping <= highest_keeping


def test_what_an_earlier_supervisor_said_comes_before_the_next_ones_question(relay: Relay) -> None:
    """Both are in their sockets when the relay comes to them: the earlier one died while the relay was busy."""
    relay.process.send_signal(signal.SIGSTOP)
    clients = [keep(relay, key) for key in range(1, 21)]
    earlier, relay.connection = relay.connection, relay.connect()
    earlier.close()
    relay.tell(TAKE)
    relay.process.send_signal(signal.SIGCONT)
    assert taken(relay) == list(range(1, 21))
    for client in clients:
        client.close()


def test_all_may_be_dropped_at_once(relay: Relay) -> None:
    clients = [keep(relay, key) for key in (1, 2, 3)]
    relay.tell(DROP, ALL)
    assert all(map(is_closed, clients))
    clients.append(keep(relay, 2))
    assert take(relay) == [2]
    for client in clients:
        client.close()


def test_more_connections_than_descriptors(relay: Relay) -> None:
    """Those that find no room are as if there were no relay; all else goes on."""
    clients = [keep(relay, key) for key in range(1, 2 * OPEN_FILES)]
    kept = take(relay)
    assert kept == list(range(1, OPEN_FILES // 2 + 1))
    assert is_closed(clients[-1])
    assert relay.passes_a_byte()
    relay.tell(DROP, 5)
    clients += [keep(relay, key) for key in range(1000, 1000 + OPEN_FILES)]
    assert 0 < len([key for key in take(relay) if key >= 1000]) < OPEN_FILES
    for client in clients:
        client.close()
    relay.process.kill()
    assert relay.said().count("no room") == 2  # once, and once more after there was room again


def test_a_guest_s_input_comes_before_a_kept_connection(relay: Relay) -> None:
    clients = [keep(relay, key) for key in range(1, OPEN_FILES // 2 + 1)]
    source, client = os.pipe()
    guest, sink = os.pipe()
    relay.tell(PUMP, 1, INPUT, fds=(source, sink))
    os.close(source)
    os.close(sink)
    assert is_closed(clients[0])
    os.write(client, b"input")
    os.close(client)
    assert read_all(guest) == b"input"
    os.close(guest)
    assert OPEN_FILES // 2 - 3 < len(take(relay)) < OPEN_FILES // 2
    for each in clients:
        each.close()


def test_the_last_descriptor_of_a_number_is_held(relay: Relay, tmp_path: Path) -> None:
    for text in ("first", "second"):
        with (tmp_path / text).open("w+b") as file:
            file.write(text.encode())
            file.flush()
            relay.tell(HOLD, 7, fds=(file.fileno(),))
    relay.tell(TAKE)
    reader = Reader(relay.connection)
    assert reader.receive()
    held, *_ = reader.frames()
    assert (held.kind, unpack_numbers(held.body)) == (HELD, (7,))
    assert os.pread(held.fds[0], 10, 0) == b"second"
    held.close()


def test_relay_reports_when_inputs_have_no_room(relay: Relay) -> None:
    inputs = []
    for number in range(OPEN_FILES // 4):  # two descriptors each
        source, client = os.pipe()
        guest, sink = os.pipe()
        relay.tell(PUMP, number, INPUT, fds=(source, sink))
        inputs.append((client, guest))
        os.close(source)
        os.close(sink)
    reader = Reader(relay.connection)

    def told() -> list[bytes]:
        """Messages about its room, among the answers for each input."""
        said: list[bytes] = []
        while not said:
            assert reader.receive()
            said += [frame.body for frame in reader.frames() if frame.kind == FULL]
        return said

    assert told() == [pack_numbers(1)]
    os.write(inputs[-1][0], b"it works")
    assert os.read(inputs[-1][1], 100) == b"it works"
    for client, guest in inputs:
        os.close(client)
        assert read_all(guest) == b""
        os.close(guest)
    assert told() == [pack_numbers(0)]
