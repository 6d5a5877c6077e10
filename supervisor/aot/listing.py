"""The cache's folder, of every engine, for people who look and clear up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"([0-9a-f]{64})\.(O\d)\.(so|failed)")
_FOLDER = re.compile(r"([a-z]+)-(.+)-([0-9a-f]{16})")
_MOST_RECORD = 16 << 10


@dataclass(frozen=True, slots=True)
class Entry:
    """A compiled module, or the record of a compile that failed."""

    path: Path
    engine: str
    """Name and version."""
    digest: str
    level: str
    bytes: int
    used_at: int
    """When it was last used, in nanoseconds since the epoch; of a failure, when it was."""
    failure: str
    """Why there is none; "" where there is one."""


def entries(folder: Path) -> Iterator[Entry]:
    """Everything in the cache, engine by engine. Raises ``OSError``."""
    for home in sorted(folder.iterdir()):
        match = _FOLDER.fullmatch(home.name)
        if match is None or home.is_symlink() or not home.is_dir():
            continue
        for path in sorted(home.iterdir()):
            name = _NAME.fullmatch(path.name)
            if name is None:
                continue
            try:
                status = path.lstat()
                failure = _why(path) if name[3] == "failed" else ""
            except FileNotFoundError:  # removed meanwhile
                continue
            used = status.st_mtime_ns if failure else status.st_atime_ns
            yield Entry(path, f"{match[1]} {match[2]}", name[1], name[2], status.st_size, used, failure)


def _why(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(_MOST_RECORD)
    try:
        record = json.loads(text)
        return f"{record['verdict']}: {record['text']}".removesuffix(": ")
    except (ValueError, KeyError, TypeError):
        return "unreadable record"
