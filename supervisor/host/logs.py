"""Logging to stderr: text, JSON, or the journal's own fields where stderr is the journal."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
from datetime import UTC, datetime

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def one_line(text: str) -> str:
    """The text with escapes in place of line ends and control characters: a client's names may have any."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class TextFormatter(logging.Formatter):
    """A record's message is one line, and so no client's name can pass for another record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, without a trace."""
        record.message = one_line(record.message)
        return super().formatMessage(record)


class JournalFormatter(TextFormatter):
    """Each line begins with its priority (sd-daemon(3)); the journal has its own clock."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, a trace's, too."""
        priority = _priority(record)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, with its trace where it has one."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        members = {"time": at.replace("+00:00", "Z"), "level": record.levelname.lower(), "logger": record.name}
        members["message"] = record.getMessage()
        if record.exc_info:
            members["trace"] = self.formatException(record.exc_info)
        return json.dumps(members)


class JournalHandler(logging.Handler):
    """Sends records to the journal with fields of their own (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, path: str = "/run/systemd/journal/socket") -> None:
        """Raises ``OSError`` where there is no such journal."""
        super().__init__()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._sock.connect(path)
        except OSError:
            self._sock.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send it. One that the journal does not take is lost: logging never blocks."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": "wasm-sandboxer",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        try:
            self._sock.send(b"".join(_field(name, value) for name, value in fields.items()), socket.MSG_DONTWAIT)
        except OSError:
            pass


def _field(name: str, value: str) -> bytes:
    """A field; a value of several lines is told by its length."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def _priority(record: logging.LogRecord) -> int:
    """Its priority in syslog(3)'s numbers."""
    return next(number for level, number in _PRIORITIES if record.levelno >= level)


def to_journal() -> bool:
    """Whether stderr is the journal: systemd names its device and inode (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        here = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{here.st_dev}:{here.st_ino}"


def begin(level: str, form: str = "text") -> None:
    """Log to stderr from this level on, as ``text`` or ``json``."""
    handler = _handler(form)
    # As the logging HOWTO advises under "Optimization": what no form of ours shows is not looked up for each record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if not isinstance(handler, JournalHandler):
        logging._srcfile = None
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for chatty in ("asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _handler(form: str) -> logging.Handler:
    handler: logging.Handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonFormatter())
    elif to_journal():
        try:
            return JournalHandler()
        except OSError:  # its stream takes lines with priorities as well
            handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
