"""Logging to stderr, in the journal's own form where stderr is the journal."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


class JournalFormatter(logging.Formatter):
    """Each line begins with its priority (sd-daemon(3)); the journal has its own clock."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, a trace's, too."""
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def to_journal() -> bool:
    """Whether stderr is the journal: systemd names its device and inode (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        here = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{here.st_dev}:{here.st_ino}"


def begin(level: str) -> None:
    """Log to stderr from this level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JournalFormatter() if to_journal() else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for chatty in ("asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
