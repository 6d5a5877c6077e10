"""The relay: what it does between a client's FIFO and a guest, byte by byte; and what it survives."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.protocol import pack, pack_numbers, send
from workers.relay_protocol import CLOSE, END, FORWARD, INPUT, PUMP, RESIZE

from .leaks import nothing_left_open
from .relaying import SECONDS, Guest, Relay, is_quiet, read, read_all, reader_is_gone, write_until_full


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with nothing_left_open():
        made = Relay(tmp_path)
        yield made
        made.stop()


def test_no_end_before_the_first_writer_and_one_after_the_last(relay: Relay) -> None:
    guest = Guest(relay, 1)
    assert relay.passes_a_byte()
    assert relay.sleeps()
    assert is_quiet(guest.stdin)
    first, second = guest.client(), guest.client()
    os.write(first, b"one ")
    os.close(first)
    assert read(guest.stdin, 100) == b"one "
    assert relay.passes_a_byte()
    assert is_quiet(guest.stdin)
    os.write(second, b"two")
    os.close(second)
    assert read_all(guest.stdin) == b"two"
    guest.close()


def test_a_writer_that_writes_nothing_is_the_last_too(relay: Relay) -> None:
    guest = Guest(relay, 1)
    os.close(guest.client())
    assert read_all(guest.stdin) == b""
    guest.close()


def test_close_ends_the_input_after_what_was_written_while_a_writer_is_there(relay: Relay) -> None:
    guest = Guest(relay, 1)
    client = guest.client()
    os.write(client, b"pending")
    relay.tell(CLOSE, 1)
    assert read_all(guest.stdin) == b"pending"
    assert reader_is_gone(client)
    os.close(client)
    guest.close()


def test_close_before_the_first_writer(relay: Relay) -> None:
    guest = Guest(relay, 1)
    relay.tell(CLOSE, 1)
    assert read_all(guest.stdin) == b""
    guest.close()


def test_close_of_what_is_not_there_or_has_ended(relay: Relay) -> None:
    guest = Guest(relay, 1)
    relay.tell(CLOSE, 77)
    relay.tell(CLOSE, 1)
    relay.tell(CLOSE, 1)
    assert read_all(guest.stdin) == b""
    assert relay.passes_a_byte()
    guest.close()


def test_a_guest_that_does_not_read_holds_up_its_own_client_only(relay: Relay) -> None:
    guest, other = Guest(relay, 1), Guest(relay, 2)
    client = guest.client()
    written = write_until_full(relay, client)
    assert 3 << 16 >= len(written) > 2 << 16  # two pipes and what the relay holds
    with os.fdopen(other.client(), "wb") as its_client:
        its_client.write(b"x")
    assert read_all(other.stdin) == b"x"
    os.close(client)
    assert relay.passes_a_byte()
    assert relay.sleeps()
    assert read_all(guest.stdin) == written
    guest.close()
    other.close()


def test_close_while_the_guest_is_full(relay: Relay) -> None:
    guest = Guest(relay, 1)
    client = guest.client()
    written = write_until_full(relay, client)
    relay.tell(CLOSE, 1)
    assert relay.passes_a_byte()
    assert read_all(guest.stdin) == written
    os.close(client)
    guest.close()


def test_much_goes_through_unchanged(relay: Relay) -> None:
    guest = Guest(relay, 1)
    data = os.urandom(4 << 20)

    def write() -> None:
        with os.fdopen(guest.client(), "wb") as client:
            client.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_all(guest.stdin) == data
    writer.join()
    guest.close()


@pytest.mark.parametrize("state", ["idle", "full"])
def test_when_the_guest_is_gone_its_client_is_told(relay: Relay, state: str) -> None:
    guest = Guest(relay, 1)
    client = guest.client()
    if state == "full":
        write_until_full(relay, client)
    guest.close()
    assert relay.passes_a_byte()
    assert relay.sleeps()
    assert reader_is_gone(client)
    os.close(client)


def test_when_the_guest_is_gone_before_its_client_came(relay: Relay) -> None:
    guest = Guest(relay, 1)
    guest.close()
    assert relay.passes_a_byte()
    with pytest.raises(OSError, match="No such device or address"):
        os.open(guest.fifo, os.O_WRONLY | os.O_NONBLOCK)  # nobody reads there


def test_an_instance_that_is_started_again(relay: Relay) -> None:
    """A start failed, and the next has the same number; the client has its FIFO open all along."""
    gone = Guest(relay, 1)
    client = gone.client()
    gone.close()
    guest = Guest(relay, 1)
    assert relay.passes_a_byte()
    os.write(client, b"x")
    assert read(guest.stdin, 10) == b"x"
    relay.tell(CLOSE, 1)
    assert read_all(guest.stdin) == b""
    os.close(client)
    assert relay.passes_a_byte()
    guest.close()


def test_the_input_of_a_start_that_failed_takes_nothing_of_the_next_ones(relay: Relay) -> None:
    """Its worker has not ended yet, and could still be fed."""
    before, guest = Guest(relay, 1), Guest(relay, 1)
    assert relay.passes_a_byte()
    with open(guest.fifo, "wb", buffering=0) as client:
        for _ in range(20):
            client.write(b"x")
            assert read(guest.stdin, 10) == b"x"
        assert read_all(before.stdin) == b""
    for each in (before, guest):
        each.close()


def test_relay_is_idle_once_all_is_read(relay: Relay) -> None:
    guest = Guest(relay, 1)
    client = guest.client()
    left = len(write_until_full(relay, client))
    assert relay.sleeps()
    while left:
        left -= len(read(guest.stdin, left))
    assert relay.passes_a_byte()
    assert relay.sleeps()
    os.close(client)
    guest.close()


# Supervisors


def test_relay_outlives_a_supervisor_and_obeys_the_next(relay: Relay) -> None:
    guest = Guest(relay, 1)
    client = guest.client()
    relay.connection.close()
    os.write(client, b"x")
    assert read(guest.stdin, 10) == b"x"
    relay.connection = relay.connect()
    os.write(client, b"y")
    relay.tell(CLOSE, 1)
    assert read_all(guest.stdin) == b"y"
    os.close(client)
    guest.close()


def test_end_closes_the_relay(relay: Relay) -> None:
    guest = Guest(relay, 1)
    relay.tell(END)
    assert relay.process.wait(SECONDS) == 0
    assert read_all(guest.stdin) == b""
    assert not Path(relay.path).exists()
    guest.close()


def test_an_idle_relay_ends_by_itself(tmp_path: Path) -> None:
    relay = Relay(tmp_path, idle_seconds=0.5)
    guest = Guest(relay, 1)
    relay.connection.close()
    with pytest.raises(subprocess.TimeoutExpired):  # it has something to do
        relay.process.wait(1)
    guest.close()
    assert relay.process.wait(SECONDS) == 0
    assert not Path(relay.path).exists()


HEADER = struct.Struct("<IHH")
BROKEN = {
    "no frame": b"\xff" * 8,
    "unknown kind": HEADER.pack(8, 99, 0) + pack_numbers(1),
    "no whole numbers": HEADER.pack(3, CLOSE, 0) + b"abc",
    "no instance": HEADER.pack(0, CLOSE, 0),
    "no descriptors": HEADER.pack(16, PUMP, 0) + pack_numbers(5, INPUT),
    "descriptors that did not come": HEADER.pack(16, PUMP, 2) + pack_numbers(5, INPUT),
    "half a resize": HEADER.pack(16, RESIZE, 0) + pack_numbers(1, 80),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_frame_costs_its_connection_only(relay: Relay, data: bytes) -> None:
    guest = Guest(relay, 1)
    with relay.connect() as other:
        other.sendall(data)
        assert select.select([other], [], [], SECONDS)[0]
        assert other.recv(1) == b""
    assert relay.passes_a_byte()
    with os.fdopen(guest.client(), "wb") as client:
        client.write(b"x")
    assert read_all(guest.stdin) == b"x"
    guest.close()


def test_a_pump_of_no_kind(relay: Relay) -> None:
    with relay.connect() as other:
        source, sink = os.pipe()
        send(other, PUMP, pack_numbers(5, 77), (source, sink))
        os.close(source)
        assert select.select([other], [], [], SECONDS)[0]
        assert other.recv(1) == b""
        os.close(sink)
    assert relay.passes_a_byte()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_does_not_listen_is_not_forwarded(relay: Relay, kind: str) -> None:
    """It ended the relay, with all that it held, as soon as something came there."""
    guest = Guest(relay, 1)
    assert relay.passes_a_byte()
    ends = [end.detach() for end in socket.socketpair()] if kind == "socket" else list(os.pipe())
    os.close(ends.pop())  # what is left is readable: it is at its end
    with relay.connect() as other:
        send(other, FORWARD, pack([pack_numbers(2), b"/nowhere"]), ends)
        assert other.recv(1) == b""  # who sends that is dropped
    os.close(ends[0])
    assert relay.process.poll() is None
    client = guest.client()
    os.write(client, b"on")
    assert read(guest.stdin, 2) == b"on"
    os.close(client)
    guest.close()
