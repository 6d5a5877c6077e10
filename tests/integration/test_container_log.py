"""Container logs, where an engine leaves them to its runtime: iSulad's annotations, and no FIFOs."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument
from supervisor.host import linux

from ..harness.compiled import until
from ..harness.container import Collected, Container, Pod
from ..harness.daemon import Daemon
from ..harness.helpers import find, helper

pytestmark = pytest.mark.engines


@pytest.fixture
def fresh() -> Iterator[Pod]:
    """A pod on a daemon of the test's own."""
    with Daemon() as daemon:
        pod = Pod(daemon)
        yield pod
        pod.close()


class Logged:
    """A container whose output is logged as iSulad asks for it, in a folder named by its id."""

    def __init__(self, pod: Pod, guest: str, *args: str, stdin: bool = False, **annotations: str) -> None:
        builder = pod.with_wasm(guest).args(*args).streams(stdout="", stderr="")
        if stdin:
            builder.fifos("stdin")
        self.log = builder.bundle / "console.log"
        builder.config["annotations"] |= {
            "log.console.file": str(self.log),
            "log.console.filesize": "1MB",
            "log.console.filerotate": "7",
            **{f"log.console.{name}": value for name, value in annotations.items()},
        }
        self.container: Container = builder.build()

    def lines(self, *files: Path) -> list[dict[str, str]]:
        return [json.loads(line) for file in files or (self.log,) for line in file.read_bytes().splitlines()]

    def text(self, stream: str = "stdout", *files: Path) -> str:
        return "".join(line["log"] for line in self.lines(*files) if line["stream"] == stream)

    def rotated(self) -> list[Path]:
        """All of its files, the oldest first."""
        older = sorted(self.log.parent.glob("console.log.*"), key=lambda path: -int(path.suffix[1:]))
        return [*older, self.log]


def test_a_guests_lines_are_in_the_log_when_wait_answers(pod: Pod) -> None:
    logged = Logged(pod, "hello")
    begun = datetime.now(UTC)
    assert logged.container.start().wait() == 0
    (line,) = logged.lines()
    assert (line["log"], line["stream"]) == ("hello from WASI\n", "stdout")
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-11-21T13:00:00.000000000Z")
    assert begun <= datetime.fromisoformat(line["time"][:26]).replace(tzinfo=UTC) <= datetime.now(UTC)
    assert logged.log.stat().st_mode & 0o777 == 0o640


def feed(logged: Logged, data: bytes) -> None:
    with (logged.container.bundle / "stdin").open("wb") as stdin:
        stdin.write(data)


def test_lines_of_megabytes_in_pieces_and_no_end(pod: Pod) -> None:
    logged = Logged(pod, "cat", stdin=True, filesize="100MB")
    logged.container.start()
    text = "short\n" + "é" * 1_500_000 + '\n"quoted"\\\t\x01\n' + "no end"
    feed(logged, text.encode())
    assert logged.container.wait() == 0
    assert logged.text() == text
    assert max(len(line["log"].encode()) for line in logged.lines()) <= 16384 + 1
    assert [line["log"] for line in logged.lines()][-2:] == ['"quoted"\\\t\x01\n', "no end"]


def test_bytes_that_are_no_text(pod: Pod) -> None:
    logged = Logged(pod, "cat", stdin=True)
    logged.container.start()
    feed(logged, b"\xff\xfe\n" + b"\x80" * 40_000 + b"\n")
    assert logged.container.wait() == 0
    assert logged.text() == "\ufffd\ufffd\n" + "\ufffd" * 40_000 + "\n"


def test_rotation_keeps_the_latest_files(pod: Pod) -> None:
    logged = Logged(pod, "cat", stdin=True, filesize="64KB", filerotate="3")
    logged.container.start()
    lines = [f"line {number}\n" for number in range(20_000)]
    feed(logged, "".join(lines).encode())
    assert logged.container.wait() == 0
    files = logged.rotated()
    assert [file.name for file in files] == ["console.log.2", "console.log.1", "console.log"]
    assert all(file.stat().st_size <= 64 << 10 for file in files)
    text = logged.text("stdout", *files)
    assert "".join(lines).endswith(text)
    assert len(text) > 60_000 / 7  # most of a line of the log is not the guest's


def test_a_log_that_is_refused_now_does_not_keep_the_daemon_from_starting(fresh: Pod) -> None:
    """An earlier version took its annotations; the daemon said what is wrong with them, and ended."""
    logged = Logged(fresh, "cat", stdin=True)
    logged.container.start()
    fresh.daemon.kill()
    with closing(sqlite3.connect(fresh.daemon.dir / "state.db")) as db, db:
        db.execute("UPDATE containers SET config = CAST(replace(config, '\"1MB\"', '\"much\"') AS BLOB)")
    fresh.daemon.start()
    assert "its log does not continue" in fresh.daemon.log_text()
    feed(logged, b"lost, or not")
    assert logged.container.reconnect().wait() == 0


def test_a_dead_logger_loses_nothing_that_was_not_in_its_hands(fresh: Pod) -> None:
    logged = Logged(fresh, "tick", "200", "7")
    pid = logged.container.start().pid
    for _ in range(3):
        seen = len(logged.lines())
        until("more lines", lambda seen=seen: len(logged.lines()) > seen)  # type: ignore[misc]
        before = helper(fresh.daemon, "logger")
        before.kill()
        os.kill(pid, signal.SIGSTOP)  # its ticks are not to run out on a busy machine
        until("the next logger", lambda before=before: find(fresh.daemon, "logger") not in (None, before))  # type: ignore[misc]
        os.kill(pid, signal.SIGCONT)
    assert logged.container.wait() == 7
    ticks = [int(line["log"].split()[1]) for line in logged.lines()]
    assert ticks == sorted(set(ticks))
    gaps = [after - before - 1 for before, after in pairwise([0, *ticks]) if after > before + 1]
    assert len(gaps) <= 3, gaps  # each kill costs what it had read at once: a line, or more on a busy machine
    assert ticks[-1] == 200


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_log_goes_on_without_a_supervisor(fresh: Pod, how: str) -> None:
    daemon = fresh.daemon
    logged, ended = Logged(fresh, "tick", "100", "7"), Logged(fresh, "tick", "20", "9")
    for each in (logged, ended):
        each.container.start()
    until("the first lines", lambda: len(logged.lines()) > 5)
    getattr(daemon, how)()
    until("the other's end", lambda: len(ended.lines()) == 20)
    daemon.start()
    assert ended.container.reconnect().wait() == 9
    assert logged.container.reconnect().wait() == 7
    assert len(logged.lines()) == 100
    assert list((daemon.dir / "logs").iterdir()) == []
    assert "hung up" not in daemon.log_text()


def test_supervisor_and_logger_die_together(fresh: Pod) -> None:
    daemon = fresh.daemon
    logged = Logged(fresh, "tick", "400", "7")  # it lives on when the next supervisor is there, on a busy machine, too
    logged.container.start()
    until("the first lines", lambda: len(logged.lines()) > 5)
    logger = helper(daemon, "logger")
    daemon.kill()
    logger.kill()
    daemon.start()
    assert logged.container.reconnect().wait() == 7
    assert len(logged.lines()) >= 399


def test_a_terminals_output_is_logged(pod: Pod) -> None:
    builder = pod.with_wasm("hello").terminal().streams(stdin="", stdout="", stderr="")
    log = builder.bundle / "console.log"
    builder.config["annotations"]["log.console.file"] = str(log)
    assert builder.build().start().wait() == 0
    assert json.loads(log.read_text())["log"] == "hello from WASI\r\n"


def test_a_failed_start_leaves_nothing(pod: Pod) -> None:
    builder = pod.with_wasm(b"no module").streams(stdout="", stderr="")
    builder.config["annotations"]["log.console.file"] = str(builder.bundle / "console.log")
    container = builder.build()
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="not a WebAssembly module"):
            container.start()
    assert list((pod.daemon.dir / "logs").iterdir()) == []


def test_a_full_disk_holds_no_guest_up_and_is_said_once(pod: Pod) -> None:
    builder = pod.with_wasm("cat").fifos("stdin").streams(stdout="", stderr="")
    folder = builder.bundle / "small"
    folder.mkdir()
    linux.mount("tmpfs", str(folder), "tmpfs", 0, "size=128k,mode=755")
    try:
        builder.config["annotations"]["log.console.file"] = str(folder / "console.log")
        container = builder.build().start()
        with (container.bundle / "stdin").open("wb") as stdin:
            for number in range(20_000):
                stdin.write(b"line %d\n" % number)
        assert container.wait() == 0
        lines = [json.loads(line)["log"] for line in (folder / "console.log").read_bytes().splitlines()]
        numbers = [int(line.split()[1]) for line in lines]
        assert numbers == sorted(set(numbers))
        assert numbers[:100] == list(range(100))
    finally:
        linux.detach(str(folder))
    said = [line for line in pod.daemon.log_text().splitlines() if f"logger: {container.id}:" in line]
    assert said[0].endswith("its log cannot be written: No space left on device: lines are lost until it can")
    assert len(said) <= 20  # twice a second
    assert sum(int(n) for line in said for n in re.findall(r"(\d+) lines", line)) == 20_000 - len(lines)


@pytest.mark.parametrize("annotations", [{"driver": "none"}, {"file": "none"}])
def test_none_writes_nothing(pod: Pod, annotations: dict[str, str]) -> None:
    logged = Logged(pod, "hello", **annotations)
    assert logged.container.start().wait() == 0
    assert not logged.log.exists()


def test_engines_with_streams_have_their_output_themselves(pod: Pod) -> None:
    builder = pod.with_wasm("hello").fifos("stdout").streams(stderr="")
    log = builder.bundle / "console.log"
    builder.config["annotations"]["log.console.file"] = str(log)
    container = builder.build()
    output = Collected(container.bundle / "stdout")
    assert container.start().wait() == 0
    assert output.text() == "hello from WASI\n"
    assert not log.exists()


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"file": "console.log"}, "not the absolute path"),
        ({"file": "/etc/x"}, "has to have the container's id"),
        ({"file": "/nowhere/x"}, "No such file"),
        ({"filesize": "much"}, "not a size"),
        ({"filerotate": "0"}, "from 1 to"),
        ({"driver": "journald"}, "not supported"),
        ({"driver": "syslog", "facility": "space"}, "none of syslog's"),
    ],
)
def test_annotations_that_cannot_be(pod: Pod, annotations: dict[str, str], reason: str) -> None:
    logged = Logged(pod, "hello", **annotations)
    with pytest.raises(InvalidArgument, match=reason):
        logged.container.start()
    assert not Path("/etc/x").exists()


def test_a_log_that_is_a_link_or_a_fifo_is_refused(pod: Pod, tmp_path: Path) -> None:
    link = Logged(pod, "hello")
    (tmp_path / "passwd").write_text("precious")
    link.log.symlink_to(tmp_path / "passwd")
    hard = Logged(pod, "hello")
    os.link(tmp_path / "passwd", tmp_path / "other")
    hard.log.unlink(missing_ok=True)
    (hard.log.parent / "x").write_text("precious")
    os.link(hard.log.parent / "x", hard.log)
    fifo = Logged(pod, "hello")
    os.mkfifo(fifo.log)
    for each in (link, hard, fifo):
        with pytest.raises(InvalidArgument, match="its log"):
            each.container.start()
    assert (tmp_path / "passwd").read_text() == (hard.log.parent / "x").read_text() == "precious"


def test_a_folder_that_others_may_write_to_is_refused(pod: Pod) -> None:
    logged = Logged(pod, "hello")
    logged.log.parent.chmod(0o777)
    with pytest.raises(InvalidArgument, match="root's alone"):
        logged.container.start()


def test_a_killed_guests_last_lines_are_there(pod: Pod) -> None:
    logged = Logged(pod, "tick", "100000")
    logged.container.start()
    until("lines", lambda: len(logged.lines()) > 3)
    logged.container.kill(signal.SIGKILL)
    assert logged.container.wait() == 137
    ticks = [int(line["log"].split()[1]) for line in logged.lines()]
    assert ticks == list(range(1, len(ticks) + 1))
