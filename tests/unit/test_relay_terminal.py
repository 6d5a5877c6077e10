"""The relay between a terminal and its client's FIFOs."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.relay_protocol import CLOSE, PUMP, RESIZE, TERMINAL_INPUT, TERMINAL_OUTPUT

from .leaks import nothing_left_open
from .relaying import Relay, read, read_all


class Terminal:
    """The guest's end of a terminal, and the client's ends of the FIFOs on the other side of the relay."""

    def __init__(self, relay: Relay, instance: int) -> None:
        master, self.guest = os.openpty()
        attributes = termios.tcgetattr(self.guest)
        attributes[3] &= ~termios.ECHO
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(self.guest, termios.TCSANOW, attributes)
        for name in ("in", "out"):
            os.mkfifo(relay.folder / name)
        source = os.open(relay.folder / "in", os.O_RDONLY | os.O_NONBLOCK)
        sink = os.open(relay.folder / "out", os.O_RDWR)
        relay.tell(PUMP, instance, TERMINAL_INPUT, fds=(source, master))
        relay.tell(PUMP, instance, TERMINAL_OUTPUT, fds=(master, sink))
        self.output = os.open(relay.folder / "out", os.O_RDONLY)
        self.input = os.open(relay.folder / "in", os.O_WRONLY)
        for fd in (master, source, sink):
            os.close(fd)

    def close(self) -> None:
        for fd in (self.guest, self.output, self.input):
            os.close(fd)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with nothing_left_open():
        made = Relay(tmp_path)
        yield made
        made.stop()


@pytest.fixture
def terminal(relay: Relay) -> Iterator[Terminal]:
    made = Terminal(relay, 1)
    yield made
    made.close()


def test_both_ways(terminal: Terminal) -> None:
    os.write(terminal.input, b"to the guest\n")
    assert read(terminal.guest, 100) == b"to the guest\n"
    os.write(terminal.guest, b"from the guest\n")
    assert read(terminal.output, 100) == b"from the guest\n"


def test_its_size(relay: Relay, terminal: Terminal) -> None:
    relay.tell(RESIZE, 1, 132, 43)
    relay.tell(RESIZE, 99, 1, 1)  # of no instance
    assert relay.passes_a_byte()
    assert os.get_terminal_size(terminal.guest) == (132, 43)


def test_close_is_the_end_of_file_key(relay: Relay, terminal: Terminal) -> None:
    os.write(terminal.input, b"last\n")
    relay.tell(CLOSE, 1)
    assert read(terminal.guest, 100) == b"last\n"
    assert read(terminal.guest, 100) == b""
    os.write(terminal.guest, b"goes on")
    assert read(terminal.output, 100) == b"goes on"


def test_when_the_guest_is_gone_the_client_has_all_and_then_the_end(relay: Relay) -> None:
    terminal = Terminal(relay, 1)
    os.write(terminal.guest, b"last words")
    os.close(terminal.guest)
    assert read_all(terminal.output) == b"last words"
    os.close(terminal.output)
    os.close(terminal.input)
    assert relay.passes_a_byte()
    assert relay.sleeps()


def test_files_in_place_of_fifos(relay: Relay) -> None:
    """They are always ready, and epoll does not take them."""
    master, guest = os.openpty()
    (relay.folder / "in").write_bytes(b"typed\n")
    source = os.open(relay.folder / "in", os.O_RDONLY)
    sink = os.open(relay.folder / "out", os.O_WRONLY | os.O_CREAT)
    relay.tell(PUMP, 1, TERMINAL_INPUT, fds=(source, master))
    relay.tell(PUMP, 1, TERMINAL_OUTPUT, fds=(master, sink))
    for fd in (master, source, sink):
        os.close(fd)
    assert read(guest, 100) == b"typed\n"
    os.write(guest, b"said")
    os.close(guest)
    assert relay.passes_a_byte()
    assert relay.sleeps()
    assert (relay.folder / "out").read_bytes() == b"typed\r\nsaid"  # the terminal echoes
