"""``terminal: true``: a real pseudo-terminal, one stream, whole to the last byte."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

import pytest

from sandbox_api.errors import FailedPrecondition
from sandbox_api.proto import task_pb2 as pb

from ..harness.compiled import until
from ..harness.container import Collected, Container, Pod

pytestmark = pytest.mark.engines


def with_terminal(pod: Pod, guest: str, *args: str) -> tuple[Container, Collected]:
    builder = pod.with_wasm(guest).args(*args).terminal().fifos("stdin", "stdout").streams(stderr="")
    container = builder.build()
    output = Collected(container.bundle / "stdout")
    return container.start(), output


def test_input_is_echoed_and_comes_back(pod: Pod) -> None:
    container, output = with_terminal(pod, "cat")
    with (container.bundle / "stdin").open("w") as stdin:
        stdin.write("typed\n")
        stdin.flush()
        container.close_stdin()
        assert container.wait() == 0
    assert output.text() == "typed\r\ntyped\r\n"


def test_the_guest_has_a_controlling_terminal(pod: Pod) -> None:
    container, _ = with_terminal(pod, "sleep")
    names = {os.readlink(f"/proc/{container.pid}/fd/{number}") for number in (0, 1, 2)}
    assert len(names) == 1
    assert names.pop().startswith("/dev/pts/")
    with open(f"/proc/{container.pid}/stat") as file:
        assert int(file.read().rsplit(")", 1)[1].split()[4]) != 0  # tty_nr (proc_pid_stat(5))
    assert container.state().terminal


def test_an_interrupt_typed_ends_the_guest(pod: Pod) -> None:
    container, _ = with_terminal(pod, "sleep")
    with (container.bundle / "stdin").open("wb", buffering=0) as stdin:
        stdin.write(b"\x03")
        assert container.wait() == 128 + signal.SIGINT


def window(fd: int) -> tuple[int, int]:
    rows, columns, *_ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns


def test_the_window_is_resized(pod: Pod) -> None:
    container, _ = with_terminal(pod, "sleep")
    container.connection.call("ResizePty", pb.ResizePtyRequest(id=container.id, width=132, height=43))
    container.close_stdin()  # goes the same way after it
    path = os.readlink(f"/proc/{container.pid}/fd/0")
    fd = os.open(path, os.O_RDONLY | os.O_NOCTTY)
    try:
        until("resized", lambda: window(fd) == (43, 132))
    finally:
        os.close(fd)


def test_much_output_is_whole_to_the_last_byte(pod: Pod) -> None:
    container, output = with_terminal(pod, "flood", "20000")
    assert container.wait() == 0
    lines = output.text().splitlines()
    assert len(lines) == 20000
    assert lines[-1] == f"line 20000 of 20000 {'0' * 60}"


def test_an_exec_may_have_a_terminal(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    container.add_exec("tty", "/app.wasm", "0", fifos=True, terminal=True)
    output = Collected(container.bundle / "tty.out")
    container.start("tty")
    assert container.wait("tty") == 0
    assert output.text() == "up\r\n"


def test_no_resize_without_a_terminal(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build()
    request = pb.ResizePtyRequest(id=container.id, width=80, height=25)
    with pytest.raises(FailedPrecondition, match="it is created"):
        container.connection.call("ResizePty", request)
    container.start()
    with pytest.raises(FailedPrecondition, match="no terminal"):
        container.connection.call("ResizePty", request)
