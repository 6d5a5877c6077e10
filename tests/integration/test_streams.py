"""Standard streams: each instance has its own, and their ends come when a client expects them."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sandbox_api.errors import InvalidArgument

from ..harness.container import Collected, Container, Pod

pytestmark = pytest.mark.engines


def read_line(path: str | os.PathLike[str]) -> str:
    with open(path) as file:
        return file.readline()


def cat(pod: Pod) -> tuple[Container, Collected]:
    container = pod.with_wasm("cat").fifos("stdin", "stdout").build()
    output = Collected(container.bundle / "stdout")
    return container.start(), output


def test_instances_at_once_have_streams_of_their_own(pod: Pod) -> None:
    running = [cat(pod) for _ in range(5)]
    for number, (container, _) in enumerate(running):
        (container.bundle / "stdin").write_text(f"for number {number}")
    assert [container.wait() for container, _ in running] == [0] * 5
    assert [output.text() for _, output in running] == [f"for number {number}" for number in range(5)]


def test_a_guest_sees_no_end_of_input_before_the_client_first_opens_it(pod: Pod) -> None:
    container, output = cat(pod)
    waiter = container.wait_later(timeout=0.3)
    with pytest.raises(TimeoutError):
        waiter.result()
    assert container.status() == "RUNNING"
    (container.bundle / "stdin").write_text("late")
    assert (container.wait(), output.text()) == (0, "late")


def test_close_io_ends_an_input_that_nobody_opened(pod: Pod) -> None:
    container, output = cat(pod)
    container.close_stdin()
    assert (container.wait(), output.text()) == (0, "")


def test_close_io_ends_an_input_that_is_still_open_after_what_was_written(pod: Pod) -> None:
    container, output = cat(pod)
    with (container.bundle / "stdin").open("wb", buffering=0) as stdin:
        stdin.write(b"x" * 30_000)
        container.close_stdin()
        assert container.wait() == 0
    assert output.text() == "x" * 30_000


def test_version_3_holds_the_input_open_until_close_io(pod: Pod) -> None:
    container = pod.with_wasm("cat").fifos("stdin", "stdout").build()
    output = Collected(container.bundle / "stdout")
    container.start(version=3)
    for text in ("first ", "second"):  # as before and after containerd's restart
        (container.bundle / "stdin").write_text(text)
    waiter = container.wait_later(timeout=0.3)
    with pytest.raises(TimeoutError):
        waiter.result()
    container.close_stdin()
    assert (container.wait(), output.text()) == (0, "first second")


def test_close_io_before_the_start_ends_the_input(pod: Pod) -> None:
    container = pod.with_wasm("cat").fifos("stdin", "stdout").build()
    output = Collected(container.bundle / "stdout")
    container.close_stdin()
    container.start(version=3)
    assert (container.wait(), output.text()) == (0, "")


def test_version_3_holds_a_terminals_input_open_until_close_io(pod: Pod) -> None:
    container = pod.with_wasm("cat").terminal().fifos("stdin", "stdout").streams(stderr="").build()
    output = Collected(container.bundle / "stdout")
    container.start(version=3)
    (container.bundle / "stdin").write_text("first\n")
    (container.bundle / "stdin").write_text("second\n")
    container.close_stdin()
    assert container.wait() == 0
    assert sorted(output.text().split()) == ["first"] * 2 + ["second"] * 2  # typed, and from the guest


def test_much_input_and_output_arrive_whole(pod: Pod) -> None:
    container, output = cat(pod)
    data = "0123456789abcdef" * 65536
    (container.bundle / "stdin").write_text(data)
    assert container.wait() == 0
    assert output.text() == data


def test_a_guest_that_reads_nothing_is_not_held_up_by_its_input(pod: Pod) -> None:
    container = pod.with_wasm("hello").fifos("stdin").build().start()
    assert container.wait() == 0


def test_a_reader_that_goes_away_ends_nobody(pod: Pod) -> None:
    container = pod.with_wasm("flood").args("20000").fifos("stdout").build()
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(read_line(container.bundle / "stdout")))
    reader.start()
    container.start()
    reader.join()  # it read some, and closed: what stands in the pipe waits for the next reader
    assert lines[0].startswith("line 1 of 20000")
    assert container.status() == "RUNNING"
    rest = Collected(container.bundle / "stdout").text()
    assert container.wait() == 0
    assert rest.splitlines()[-1].startswith("line 20000 of 20000")


def test_output_to_a_file_is_appended(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    (builder.bundle / "stdout").write_text("before\n")
    container = builder.build().start()
    assert container.wait() == 0
    assert container.stdout() == "before\nhello from WASI\n"


def test_no_path_is_dev_null(pod: Pod) -> None:
    container = pod.with_wasm("cat").streams(stdin="", stdout="", stderr="").build().start()
    assert container.wait() == 0


@pytest.mark.parametrize("where", ["relative/path", "binary:///bin/logger", "fd://3"])
def test_a_stream_that_is_no_path_is_refused_at_create(pod: Pod, where: str) -> None:
    with pytest.raises(InvalidArgument, match="stdout"):
        pod.with_wasm("hello").streams(stdout=where).build()


def test_a_stream_that_is_not_there_fails_the_start_and_nothing_else(pod: Pod) -> None:
    builder = pod.with_wasm("hello").streams(stdout="/nowhere/at/all")
    container = builder.build()
    with pytest.raises(InvalidArgument, match="/nowhere/at/all"):
        container.start()
    assert container.status() == "CREATED"
    assert container.delete().exit_status == 0


def test_a_killed_guest_ends_its_output(pod: Pod) -> None:
    container = pod.with_wasm("sleep").fifos("stdout").build()
    output = Collected(container.bundle / "stdout")
    container.start()
    container.kill(signal.SIGKILL)
    container.wait()
    assert "up\n".startswith(output.text())  # its C library may write the line in two parts
