"""The spare: a second copy of the state, from which a damaged state file is made anew.

It is a pair of files: ``N.db``, the whole state as it was once, and ``N.log``, a line for each transaction since,
with its checksum. A transaction is in both state file and spare before its answer leaves. Two files in step would
cost it another transaction; a line costs a write(2).
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence

from . import schema

log = logging.getLogger(__name__)

LEAST_LOG = 4 << 20
"""Bytes a log may always have. Beyond, and longer than its ``.db``, it gives way to a new pair."""
RETRY_SECONDS = 10.0

Statement = tuple[str, Sequence[object]]
"""SQL and its values."""


class Spare:
    """The pair that is in step with the state file, and, until that is there, those an earlier supervisor left."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._fd = -1
        self._size = 0
        self._most = 0
        self._retry = 0.0

    def renew(self, db: sqlite3.Connection) -> None:
        """Begin a new pair from the state file. What hinders is said, and no error: the state file is good."""
        old = self._numbers()
        name = f"{self._folder}/{max(old, default=0) + 1}"
        self._let_go()
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            os.close(os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            with contextlib.closing(sqlite3.connect(f"{name}.new", isolation_level=None)) as copy:
                copy.execute("PRAGMA journal_mode = OFF")
                copy.execute("PRAGMA synchronous = OFF")
                db.backup(copy)
            self._fd = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size, self._most = 0, max(LEAST_LOG, os.stat(f"{name}.new").st_size)
            os.rename(f"{name}.new", f"{name}.db")  # from here on it counts
        except (OSError, sqlite3.Error) as error:
            self._fail(error)
            return
        for number in old:
            self._remove(number)

    def add(self, db: sqlite3.Connection, number: int, statements: list[Statement]) -> None:
        """The transaction of this number is in the state file. What hinders is said, as with ``renew``."""
        if self._fd < 0:
            if time.monotonic() >= self._retry:
                self.renew(db)
            return
        text = _encode([number, statements]).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(0, "there was room for a part of a line")
        except OSError as error:
            self._fail(error)
            return
        self._size += len(line)
        if self._size > self._most:
            self.renew(db)

    def last(self) -> int:
        """Number of the last transaction in it; 0 where there is none."""
        for number in sorted(self._numbers(), reverse=True):
            with contextlib.suppress(OSError, sqlite3.Error, ValueError):
                return self._last_line(number) or self._first(number)
        return 0

    def restore(self, made: str) -> bool:
        """Make a state file there of what the newest sound pair says; false where there is none.

        Raises ``OSError`` and ``sqlite3.Error`` where the disk refuses: then a pair may be sound.
        """
        for number in sorted(self._numbers(), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
            shutil.copyfile(f"{self._folder}/{number}.db", made)
            os.chmod(made, 0o600)
            try:
                with contextlib.closing(schema.connect(made)) as db:
                    db.execute("PRAGMA journal_mode = OFF")
                    db.execute("PRAGMA synchronous = OFF")
                    self._replay(number, db)
                    fault = schema.fault(db)
            except sqlite3.Error as error:
                if not schema.is_damage(error):
                    raise
                fault = str(error)
            if not fault:
                return True
            log.error("%s/%d.db cannot be used: %s", self._folder, number, fault)
            os.unlink(made)
        return False

    def discard(self) -> None:
        """No pair is sound."""
        for number in self._numbers():
            self._remove(number)

    def close(self) -> None:
        """Leave it for the next supervisor."""
        self._let_go()

    def _replay(self, number: int, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        last = schema.serial(db)
        for change, statements in self._lines(number):
            if change != last + 1:
                log.error(
                    "%s/%d.log: change %d is followed by %d: the rest is lost", self._folder, number, last, change
                )
                break
            for sql, values in statements:
                db.execute(sql, values)
            last = change
        db.execute("UPDATE serial SET number = ?", (last,))
        db.execute("COMMIT")

    def _lines(self, number: int) -> Iterator[tuple[int, list[Statement]]]:
        """The transactions in a log, up to the first that is damaged: the last one may be half written."""
        try:
            with open(f"{self._folder}/{number}.log", "rb") as file:
                for line in file:
                    try:
                        change, statements = _decode(line)
                    except ValueError:
                        log.warning("%s/%d.log: it is damaged after byte %d", self._folder, number, file.tell())
                        return
                    yield change, statements
        except FileNotFoundError:
            return

    def _last_line(self, number: int) -> int:
        """The change in the last whole line of a log; 0 where it is empty. Raises ``OSError`` and ``ValueError``."""
        with open(f"{self._folder}/{number}.log", "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return 0
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                end = data.rfind(b"\n") + 1
                if not end:
                    return 0
                return _decode(data[data.rfind(b"\n", 0, end - 1) + 1 : end])[0]

    def _first(self, number: int) -> int:
        with contextlib.closing(sqlite3.connect(f"file:{self._folder}/{number}.db?immutable=1", uri=True)) as db:
            return schema.serial(db)

    def _numbers(self) -> list[int]:
        """Of the pairs there are."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        return [int(name[:-3]) for name in names if name.endswith(".db") and name[:-3].isdigit()]

    def _fail(self, error: Exception) -> None:
        """A pair that is not in step is worse than none: it would bring back what is gone."""
        self._retry = time.monotonic() + RETRY_SECONDS
        log.error("%s: there is no spare copy of the state: %s", self._folder, error)
        self._let_go()
        self.discard()

    def _remove(self, number: int) -> None:
        for extra in (".db", ".log"):  # in this order: a log alone counts for nothing
            with contextlib.suppress(OSError):
                os.unlink(f"{self._folder}/{number}{extra}")

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _bytes(value: object) -> object:
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    raise TypeError(f"{value!r} cannot be in a log")


_encode = json.JSONEncoder(default=_bytes, separators=(",", ":")).encode


def _decode(line: bytes) -> tuple[int, list[Statement]]:
    """A line's transaction: its number and its statements. Raises ``ValueError``."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or int(checksum, 16) != zlib.crc32(text):
        raise ValueError("a damaged line")
    number, statements = json.loads(text, object_hook=lambda value: value["bytes"].encode("latin-1"))
    return number, statements
