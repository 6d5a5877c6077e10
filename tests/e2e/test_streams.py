"""Exec and attach, through containerd's streaming server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from . import cri_pb2 as pb
from .node import Pod
from .streaming import Session


def test_attach_writes_to_stdin_and_reads_what_comes_of_it(pod: Pod) -> None:
    container = pod.run("cat", stdin=True)
    with Session(pod.node.cri.attach_url(container.id, stdin=True), stdin=True) as session:
        session.write(b"first\n")
        assert session.read_until(b"first\n") == b"first\n"
        session.write(b"second\n")
        session.read_until(b"second\n")
        session.close_stdin()
        assert session.finish() == (b"first\nsecond\n", b"")
    assert container.wait().exit_code == 0
    assert container.lines("stdout") == ["first", "second"]


def test_much_input_arrives_whole(pod: Pod) -> None:
    container = pod.run("cat", stdin=True)
    data = b"".join(b"%07d\n" % number for number in range(100_000))
    with Session(pod.node.cri.attach_url(container.id, stdin=True), stdin=True) as session:
        for begin in range(0, len(data), 32768):
            session.write(data[begin : begin + 32768])
        session.close_stdin()
        output, _ = session.finish()
    assert output == data
    assert container.wait().exit_code == 0


def test_the_end_of_stdin_does_not_come_before_a_client_has_attached(pod: Pod) -> None:
    container = pod.run("cat", stdin=True)
    assert pod.node.cri.status(container.id).state == pb.CONTAINER_RUNNING
    with Session(pod.node.cri.attach_url(container.id, stdin=True), stdin=True) as session:
        session.write(b"late\n")
        session.read_until(b"late\n")


def test_a_client_that_goes_away_ends_stdin_that_was_for_one(pod: Pod) -> None:
    container = pod.run("cat", stdin=True)
    session = Session(pod.node.cri.attach_url(container.id, stdin=True), stdin=True)
    session.write(b"bye\n")
    session.read_until(b"bye\n")
    session.close()
    assert container.wait().exit_code == 0


def test_without_stdin_a_guest_reads_the_end_at_once(pod: Pod) -> None:
    assert pod.run("cat").wait().exit_code == 0


def test_a_terminal_echoes_and_can_be_resized(pod: Pod) -> None:
    container = pod.run("cat", stdin=True, tty=True)
    url = pod.node.cri.attach_url(container.id, stdin=True, tty=True)
    with Session(url, stdin=True, tty=True) as session:
        session.resize(100, 40)
        session.write(b"typed\r")
        # once by the terminal's echo, once by the guest
        assert session.read_until(b"typed\r\ntyped\r\n") == b"typed\r\ntyped\r\n"
        session.write(b"\x04")  # end of input, at the start of a line
    assert container.wait().exit_code == 0


def test_exec_sync_gives_output_and_status(pod: Pod) -> None:
    container = pod.run("tick", "100000")
    ended = pod.node.cri.exec_sync(container.id, "/tick.wasm", "2", "9")
    assert ended.stdout == b"tick 1\ntick 2\n"
    assert ended.stderr == b""
    assert ended.exit_code == 9
    assert pod.node.cri.status(container.id).state == pb.CONTAINER_RUNNING


def test_output_of_an_exec_is_not_in_the_containers_log(pod: Pod) -> None:
    container = pod.run("sleep", "3600")
    container.wait_for_line("up")
    assert pod.node.cri.exec_sync(container.id, "/sleep.wasm", "0").stdout == b"up\n"
    assert container.lines() == ["up"]


def test_exec_sync_of_a_missing_module_is_an_error_that_names_it(pod: Pod) -> None:
    container = pod.run("sleep", "3600")
    with pytest.raises(grpc.RpcError, match="nothing-here"):
        pod.node.cri.exec_sync(container.id, "/nothing-here.wasm")
    assert pod.node.cri.status(container.id).state == pb.CONTAINER_RUNNING


def test_exec_sync_ends_what_takes_too_long(pod: Pod) -> None:
    container = pod.run("sleep", "3600")
    with pytest.raises(grpc.RpcError, match=r"(?i)deadline|timeout|timed out"):
        pod.node.cri.exec_sync(container.id, "/sleep.wasm", "3600", seconds=1)
    assert pod.node.cri.status(container.id).state == pb.CONTAINER_RUNNING
    assert len(pod.node.sandboxer.workers()) == 1


def test_many_execs_at_once_get_their_own_output(pod: Pod) -> None:
    container = pod.run("tick", "100000")

    def run(number: int) -> tuple[bytes, int]:
        ended = pod.node.cri.exec_sync(container.id, "/tick.wasm", str(number), str(number))
        return ended.stdout, ended.exit_code

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(run, range(1, 9)))
    for number, (output, status) in enumerate(results, 1):
        assert output.splitlines() == [b"tick %d" % tick for tick in range(1, number + 1)]
        assert status == number


def test_exec_streams_and_reports_the_status(pod: Pod) -> None:
    container = pod.run("tick", "100000")
    with Session(pod.node.cri.exec_url(container.id, "/tick.wasm", "1", "9")) as session:
        assert session.finish() == (b"tick 1\n", b"")
        assert session.exit_status() == 9


def test_exec_with_stdin(pod: Pod) -> None:
    container = pod.run("cat", stdin=True)
    url = pod.node.cri.exec_url(container.id, "/cat.wasm", stdin=True)
    with Session(url, stdin=True) as session:
        session.write(b"to the exec\n")
        session.close_stdin()
        assert session.finish() == (b"to the exec\n", b"")
        assert session.exit_status() == 0
    assert container.lines() == []


def test_exec_with_a_terminal(pod: Pod) -> None:
    container = pod.run("cat", stdin=True)
    url = pod.node.cri.exec_url(container.id, "/cat.wasm", stdin=True, tty=True)
    with Session(url, stdin=True, tty=True) as session:
        session.resize(80, 25)
        session.write(b"typed\r")
        session.read_until(b"typed\r\ntyped\r\n")
        session.write(b"\x04")
        session.finish()
        assert session.exit_status() == 0
