"""Opening the state file, and setting one aside that is damaged."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from . import schema

log = logging.getLogger(__name__)


class Foreign(Exception):
    """The file is of a version that this sandboxer may not read."""


class _EarlierBoot(Exception):
    """The machine was restarted since the file was written."""


class _Unfit(Exception):
    """The file is damaged."""


def open_or_begin(path: str) -> tuple[sqlite3.Connection, bool]:
    """Open the file; whether it is a new one, because there was none, or it was damaged or of an earlier boot.

    Raises ``Foreign``, and ``OSError`` or ``sqlite3.Error`` where the disk refuses.
    """
    try:
        return _open(path)
    except _Unfit as error:
        set_aside(path, str(error))
    except _EarlierBoot:
        log.warning("%s is of before the machine was restarted: nothing of it runs, and the state begins empty", path)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    return _open(path)


def set_aside(path: str, fault: str) -> None:
    """Rename a damaged file, with its journal. Raises ``OSError`` where the disk refuses."""
    damaged = Path(path)
    aside = damaged.with_name(f"{damaged.name}.unfit-{time.time_ns()}")
    log.error("%s is damaged (%s): set aside as %s; the state begins empty, what ran is ended", path, fault, aside.name)
    with suppress(FileNotFoundError):
        damaged.rename(aside)
    with suppress(FileNotFoundError):
        damaged.with_name(f"{damaged.name}-wal").rename(aside.with_name(f"{aside.name}-wal"))
    damaged.with_name(f"{damaged.name}-shm").unlink(missing_ok=True)


def _open(path: str) -> tuple[sqlite3.Connection, bool]:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        new = schema.prepare(db)
        fault = schema.fault(db)
        if fault:
            raise _Unfit(fault)
        version = schema.version(db)
        if version < schema.OLDEST:
            raise Foreign(f"{path} is of version {version}, and this sandboxer reads {schema.OLDEST} and later")
        if not schema.of_this_boot(db):
            raise _EarlierBoot
        if (oldest := schema.oldest_reader(db)) > schema.VERSION:
            raise Foreign(f"{path} is for version {oldest} and later, and this sandboxer is of {schema.VERSION}")
        if version < schema.VERSION:
            _migrate(db, path, version)
        elif version > schema.VERSION:
            log.info("%s is of a later version, %d: what is new in it stays as it is", path, version)
    except BaseException as error:
        db.close()
        # The last two are of rows that are not there, or hold what they cannot.
        if (isinstance(error, sqlite3.Error) and schema.is_damage(error)) or isinstance(error, TypeError | ValueError):
            raise _Unfit(str(error)) from None
        raise
    return db, new


def _migrate(db: sqlite3.Connection, path: str, version: int) -> None:
    """Raises ``Foreign`` where that fails: the file is sound, and left as it is."""
    copy = Path(f"{path}.before-{schema.VERSION}")
    copy.unlink(missing_ok=True)
    try:
        schema.migrate(db, str(copy))
    except sqlite3.Error as error:
        raise Foreign(f"{path} could not be brought from version {version} to {schema.VERSION} ({error})") from None
    copy.chmod(0o600)
    log.info(
        "%s was of version %d and is of %d now; it is kept as it was in %s", path, version, schema.VERSION, copy.name
    )
