"""A process's standard streams: what they may be, how they are opened, and that nothing waits for a client."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument
from sandbox_api.interface import Stdio
from supervisor.host import linux
from supervisor.oci.streams import Streams, _null, check, open_streams
from workers.relay_protocol import INPUT, TERMINAL_INPUT, TERMINAL_OUTPUT

from .leaks import nothing_left_open


@pytest.fixture(scope="module", autouse=True)
def _shared() -> None:
    """What all streams share is opened once, and stays."""
    open_streams(Stdio()).close()


@contextmanager
def opened(stdin: object = "", stdout: object = "", stderr: object = "", terminal: bool = False) -> Iterator[Streams]:
    with nothing_left_open():
        streams = open_streams(Stdio(str(stdin), str(stdout), str(stderr), terminal))
        try:
            yield streams
        finally:
            streams.close()
            streams.close()  # twice does no harm


def path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_an_output_that_nobody_wants_is_dev_null_and_an_input_that_nobody_gave_a_pipe_at_its_end() -> None:
    with opened() as streams, opened() as others:
        assert {os.fstat(fd).st_rdev for fd in (streams.stdout, streams.stderr)} == {os.stat("/dev/null").st_rdev}
        assert path_of(streams.stdin) == path_of(others.stdin) != "/dev/null"  # one for all
        assert os.read(streams.stdin, 1) == b""
        with select.epoll() as poll:
            poll.register(streams.stdin, select.EPOLLIN)
            assert poll.poll(0) == [(streams.stdin, select.EPOLLHUP)]
        os.set_blocking(streams.stdin, False)
        assert os.get_blocking(others.stdin)  # what a guest does to its own is nothing to another's
        assert os.write(streams.stdout, b"x") == os.write(streams.stderr, b"x") == 1


def test_no_descriptor_is_inherited(fifo: Path, tmp_path: Path) -> None:
    with opened(fifo, fifo, f"file://{tmp_path}/log") as streams:
        (pump,) = streams.pumps
        for fd in (streams.stdin, streams.stdout, streams.stderr, pump.source, pump.sink):
            assert not os.get_inheritable(fd)


# Standard input


def test_a_fifo_is_read_through_the_relay(fifo: Path) -> None:
    with opened(stdin=fifo) as streams:
        (pump,) = streams.pumps
        assert pump.kind == INPUT
        assert path_of(pump.source) == str(fifo)
        os.write(pump.sink, b"x")
        assert os.read(streams.stdin, 2) == b"x"
        assert os.get_blocking(streams.stdin)


def test_a_file_is_read_by_the_guest_itself(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("x")
    for name in (tmp_path / "input", f"file://{tmp_path}/input"):
        with opened(stdin=name) as streams:
            assert os.read(streams.stdin, 2) == b"x"
            assert streams.pumps == []


# Standard output and error


def test_output_does_not_wait_for_a_reader_and_reaches_it_later(fifo: Path) -> None:
    with opened(stdout=fifo) as streams:
        assert os.get_blocking(streams.stdout)
        os.write(streams.stdout, b"early ")
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        os.write(streams.stdout, b"late")
        assert os.read(reader, 100) == b"early late"
        os.close(reader)
        os.write(streams.stdout, b"nobody reads, and nobody is killed")


def test_the_reader_sees_the_end_when_the_guest_is_gone(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with opened(stdout=fifo) as streams:
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.write(streams.stdout, b"x")
    assert os.read(reader, 1) == b"x"
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_log_file_is_made_for_its_owner_and_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(2):
        with opened(stdout=f"file://{log}", stderr=f"file://{log}") as streams:
            os.write(streams.stdout, b"out ")
            os.write(streams.stderr, b"err ")
    assert log.read_text() == "out err out err "
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_plain_file_is_continued(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before ")
    with opened(stdout=tmp_path / "log") as streams:
        os.write(streams.stdout, b"after")
        assert fcntl.fcntl(streams.stdout, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND) == os.O_WRONLY | os.O_APPEND
        os.pwrite(streams.stdout, b"!", 0)
    assert (tmp_path / "log").read_text() == "before after!"


def test_times_of_the_hosts_null_are_not_a_guests_to_set() -> None:
    before = os.stat("/dev/null").st_mtime_ns
    with opened("/dev/null", "", "/dev/null") as streams:
        for fd in (streams.stdin, streams.stdout, streams.stderr):
            assert os.fstat(fd).st_rdev == os.stat("/dev/null").st_rdev
            with pytest.raises(OSError, match="Read-only"):
                os.utime(fd, (1, 1))
        assert os.write(streams.stdout, b"x") == 1
        assert os.read(streams.stdin, 1) == b""
    assert os.stat("/dev/null").st_mtime_ns == before


# Terminals


def test_a_terminal_for_all_three_between_the_client_s_fifos(tmp_path: Path) -> None:
    for name in ("in", "out"):
        os.mkfifo(tmp_path / name)
    with opened(tmp_path / "in", tmp_path / "out", terminal=True) as streams:
        fds = (streams.stdin, streams.stdout, streams.stderr)
        assert all(os.isatty(fd) for fd in fds)
        assert len({os.ttyname(fd) for fd in fds}) == 1
        kinds = {pump.kind: pump for pump in streams.pumps}
        assert kinds.keys() == {TERMINAL_INPUT, TERMINAL_OUTPUT}
        assert path_of(kinds[TERMINAL_INPUT].source) == str(tmp_path / "in")
        assert path_of(kinds[TERMINAL_OUTPUT].sink) == str(tmp_path / "out")
        os.write(streams.stdout, b"a\nb")
        assert select.select([kinds[TERMINAL_OUTPUT].source], [], [], 10)[0]
        assert os.read(kinds[TERMINAL_OUTPUT].source, 100) == b"a\r\nb"  # as terminals do


# What is refused


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize(
    "where", ["relative", "file://relative", "binary:///bin/logger", "file:/x", "/a\0b", "file://"]
)
def test_invalid_stream_paths_are_refused(name: str, where: str) -> None:
    stdio = Stdio(**{name: where})
    for refuse in (check, open_streams):
        with pytest.raises(InvalidArgument, match=f"^{name} .* is neither an absolute path nor file:///PATH"):
            refuse(stdio)


def test_missing_fifos_are_allowed_before_the_start() -> None:
    check(Stdio("/not/yet", "/not/yet", "file:///not/yet"))


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_missing_fifos_at_the_start_are_refused(fifo: Path, tmp_path: Path, name: str, terminal: bool) -> None:
    where = {"stdin": str(fifo), "stdout": str(fifo)} | {name: f"{tmp_path}/gone"}
    with nothing_left_open(), pytest.raises(InvalidArgument, match=f"{name}: {tmp_path}/gone: No such file"):
        open_streams(Stdio(**where, terminal=terminal))


def test_streams_that_do_not_open_are_refused(fifo: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/socket")
        for name in ("socket", "."):
            with nothing_left_open(), pytest.raises(InvalidArgument, match=f"stderr: {tmp_path}/{name}: "):
                open_streams(Stdio(str(fifo), str(fifo), f"{tmp_path}/{name}"))


@pytest.mark.parametrize(("call", "terminal", "number"), [("dup", True, n) for n in range(4)] + [("pipe2", False, 0)])
def test_nothing_stays_open_where_descriptors_run_out(
    fifo: Path, monkeypatch: pytest.MonkeyPatch, call: str, terminal: bool, number: int
) -> None:
    real, left = getattr(os, call), [number]

    def scarce(*arguments: int) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*arguments)

    with nothing_left_open(), monkeypatch.context() as patched:
        patched.setattr(os, call, scarce)
        with pytest.raises(OSError, match="Too many open files"):
            open_streams(Stdio(str(fifo), str(fifo), "", terminal))
    assert left == [-1]


def test_a_want_of_descriptors_gives_no_guest_the_hosts_null(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(place: int, recursive: bool) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with nothing_left_open(), monkeypatch.context() as patched:
        patched.setattr(linux, "clone_mount", scarce)
        with pytest.raises(OSError, match="Too many open files"):
            _null.__wrapped__()
