"""Where container logs go: JSON files on a full disk and through rotation, and syslog."""

from __future__ import annotations

import json
import os
import re
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument
from supervisor.oci import container_log as annotations
from workers import container_log
from workers.container_log import JsonFile, Lost, Syslog
from workers.protocol import pack_numbers, unpack_numbers

from .disk import disk
from .leaks import nothing_left_open


def opened(folder: Path | str, most_bytes: int = 0, most_files: int = 1) -> JsonFile:
    return JsonFile(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), b"log", most_bytes, most_files)


def texts(path: Path) -> list[str]:
    return [json.loads(line)["log"] for line in path.read_bytes().splitlines()]


def test_both_streams_in_their_order(tmp_path: Path) -> None:
    with nothing_left_open():
        log = opened(tmp_path)
        log.write([("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three")])
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [(line["stream"], line["log"]) for line in lines] == [
        ("stdout", "one\n"),
        ("stderr", "two\n"),
        ("stdout", "three"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["time"]) for line in lines)


def test_rotation_at_the_size(tmp_path: Path) -> None:
    log = opened(tmp_path, 300, 3)
    for number in range(20):
        log.write([("stdout", b"line %02d\n" % number)] * 2)
    log.close()
    files = [tmp_path / name for name in ("log.2", "log.1", "log")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    kept = [line for path in files for line in texts(path)]
    assert kept == [f"line {number // 2:02}\n" for number in range(40)][-len(kept) :]
    assert all(path.stat().st_size <= 300 for path in files)


def test_one_file_begins_again_at_its_size(tmp_path: Path) -> None:
    log = opened(tmp_path, 300, 1)
    for number in range(20):
        log.write([("stdout", b"line %02d\n" % number)])
    log.close()
    assert texts(tmp_path / "log")[-1] == "line 19\n"
    assert (tmp_path / "log").stat().st_size <= 300


def test_a_line_longer_than_a_file_is_in_one_of_its_own(tmp_path: Path) -> None:
    log = opened(tmp_path, 100, 3)
    log.write([("stdout", b"a\n"), ("stdout", b"x" * 500), ("stdout", b"b\n")])
    log.close()
    assert [texts(tmp_path / name) for name in ("log.2", "log.1", "log")] == [["a\n"], ["x" * 500], ["b\n"]]


def test_a_log_is_continued(tmp_path: Path) -> None:
    for _ in range(2):
        log = opened(tmp_path, 200, 2)
        log.write([("stdout", b"line\n")])
        log.close()
    assert len(texts(tmp_path / "log")) == 2


def test_a_full_disk_loses_whole_lines_and_says_how_many(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as small:
        log = opened(small.folder, 40_000, 3)
        log.write([("stdout", b"before\n")])
        (small.folder / "ballast").write_bytes(bytes(20_000))
        with small.full():
            (small.folder / "ballast").unlink()  # room for a part of what comes now
            with pytest.raises(Lost) as lost:
                log.write([("stdout", b"x" * 10_000)] * 3)
            assert lost.value.error.strerror == "No space left on device"
            for _ in range(5):
                with pytest.raises(Lost):
                    log.write([("stdout", b"y" * 30_000)])
        log.write([("stdout", b"again\n")])
        files = sorted(small.folder.glob("log*"), reverse=True)
        kept = [line for path in files for line in texts(path)]
        assert [line for line in kept if len(line) < 100] == ["before\n", "again\n"]
        assert len(kept) - 2 == 3 - lost.value.lines
        log.close()


@pytest.fixture
def syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(container_log, "DEV_LOG", str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "log"))
        sock.settimeout(10)
        yield sock


def test_syslog_gets_a_message_for_each_line(syslog: socket.socket) -> None:
    log = Syslog(b"tag", 3)
    log.write([("stdout", b"out\n"), ("stderr", b"err\n")])
    messages = [syslog.recv(1000) for _ in range(2)]
    assert re.fullmatch(rb"<30>\w{3} [ \d]\d \d\d:\d\d:\d\d tag: out", messages[0])
    assert re.fullmatch(rb"<27>\w{3} [ \d]\d \d\d:\d\d:\d\d tag: err", messages[1])
    log.close()


def test_a_syslog_that_does_not_read_holds_nobody_up(syslog: socket.socket) -> None:
    log = Syslog(b"tag", 3)
    with pytest.raises(Lost) as lost:
        log.write([("stdout", b"line\n")] * 10_000)
    came = 0
    while select.select([syslog], [], [], 0)[0]:
        syslog.recv(1000)
        came += 1
    assert came + lost.value.lines == 10_000
    log.close()


def test_no_syslog_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_log, "DEV_LOG", str(tmp_path / "nothing"))
    log = Syslog(b"tag", 3)
    with pytest.raises(Lost) as lost:
        log.write([("stdout", b"line\n")] * 3)
    assert lost.value.lines == 3
    log.close()


def test_rotation_that_would_hold_up_all_logs_is_not_to_be_had() -> None:
    """A file for each line, a thousand of them, took 600 s for 64 KiB of line ends."""
    asked = {"log.console.file": "/logs/id/log", "log.console.filesize": "1", "log.console.filerotate": "100"}
    log = annotations.parse(asked, "id")
    assert isinstance(log, annotations.JsonLog)
    assert (log.most_bytes, log.most_files) == (64 << 10, 100)
    with pytest.raises(InvalidArgument, match="from 1 to 100"):
        annotations.parse({**asked, "log.console.filerotate": "1000"}, "id")


@pytest.mark.parametrize(
    "wrong",
    [
        {"filesize": "9" * 5000},
        {"filesize": "\u0661MB"},
        {"filesize": "1\u212a"},  # the kelvin sign, which is a K to those who pass over case
        {"filerotate": "9" * 5000},
        {"filerotate": "\u0661"},
        {"file": "/logs/id/."},
        {"file": "/logs/id/.."},
        {"file": "/logs/id/"},
    ],
)
def test_what_is_no_number_and_no_file_is_refused(wrong: dict[str, str]) -> None:
    asked = {"log.console.file": "/logs/id/log", **{f"log.console.{name}": value for name, value in wrong.items()}}
    with pytest.raises(InvalidArgument, match=r"is not (a|the) "):
        annotations.parse(asked, "id")


def test_the_largest_size_can_be_sent() -> None:
    asked = {"log.console.file": "/logs/id/log", "log.console.filesize": f"{'9' * 18}TB"}
    log = annotations.parse(asked, "id")
    assert log is not None
    numbers, _ = annotations.encode(log)
    assert unpack_numbers(pack_numbers(*numbers)) == tuple(numbers)
