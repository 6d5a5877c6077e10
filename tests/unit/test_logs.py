"""The log's forms: JSON, and fields for the journal."""

from __future__ import annotations

import json
import logging
import socket
import struct
import sys
from pathlib import Path

import pytest

from supervisor.host.logs import JournalFormatter, JournalHandler, JsonFormatter, TextFormatter


def record(text: str, *args: object, level: int = logging.WARNING, failed: bool = False) -> logging.LogRecord:
    trace = None
    if failed:
        try:
            raise ValueError("the reason")
        except ValueError:
            trace = sys.exc_info()
    return logging.LogRecord("supervisor.daemon", level, "/x/daemon.py", 7, text, args, trace, "run")


def test_json_is_an_object_a_line() -> None:
    line = JsonFormatter().format(record('a "quoted"\nline of %s', "two"))
    assert "\n" not in line
    members = json.loads(line)
    assert members["message"] == 'a "quoted"\nline of two'
    assert (members["level"], members["logger"]) == ("warning", "supervisor.daemon")
    assert members["time"].endswith("Z")
    assert "ValueError: the reason" in json.loads(JsonFormatter().format(record("x", failed=True)))["trace"]


@pytest.mark.parametrize("formatter", [TextFormatter("%(levelname)s %(message)s"), JournalFormatter()])
def test_no_name_passes_for_a_record_or_reaches_a_terminal(formatter: logging.Formatter) -> None:
    line = formatter.format(record("module %s: missing", "/a\nERROR forged\x1b[2J\x9b\u2028é.wasm"))
    assert line.endswith(r"module /a\nERROR forged\x1b[2J\x9b\u2028é.wasm: missing")
    assert len(line.splitlines()) == 1
    assert "\nValueError: the reason" in formatter.format(record("failed", failed=True)).replace("<4>", "")


def fields(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        name, _, rest = data.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
            data = rest
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, data = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[name.decode()] = value.decode()
    return found


def test_the_journal_gets_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        handler = JournalHandler(str(tmp_path / "socket"))
        handler.handle(record("one line of %d", 3))
        got = fields(journal.recv(65536))
        assert got["MESSAGE"] == "one line of 3"
        assert (got["PRIORITY"], got["SYSLOG_IDENTIFIER"]) == ("4", "wasm-sandboxer")
        assert (got["CODE_FILE"], got["CODE_LINE"], got["CODE_FUNC"]) == ("/x/daemon.py", "7", "run")
        handler.handle(record("several\nlines", level=logging.ERROR, failed=True))
        got = fields(journal.recv(65536))
        assert got["MESSAGE"].startswith("several\nlines\nTraceback")
        assert got["PRIORITY"] == "3"
    handler.handle(record("the journal has gone"))  # and nobody is held up


def test_without_a_journal_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        JournalHandler(str(tmp_path / "none"))
