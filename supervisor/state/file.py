"""Opening the state file, and putting a new one in place of one that is damaged."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from . import schema
from .spare import Spare

log = logging.getLogger(__name__)


class Unfit(Exception):
    """The file is damaged, or older than its spare."""


class Foreign(Exception):
    """The file is of a version that this sandboxer does not know."""


def open_checked(path: str, spare: Spare) -> tuple[sqlite3.Connection, int]:
    """The file, made where there is none, and the number of its last transaction.

    Raises ``Unfit``, ``Foreign``, and ``sqlite3.Error`` where the disk refuses.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = schema.connect(path)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        version = schema.prepare(db)
        fault = schema.fault(db, version)
        if fault:
            raise Unfit(fault)
        if version != schema.VERSION:
            raise Foreign(f"{path} is of version {version}, and this sandboxer reads {schema.VERSION}")
        serial, last = schema.serial(db), spare.last()
        if serial < last:
            raise Unfit(f"it ends with change {serial}, and its spare with {last}")
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error) and schema.is_damage(error):
            raise Unfit(str(error)) from None
        raise
    return db, serial


def replace(path: Path, spare: Spare, fault: str) -> None:
    """Set the file aside, and put one in its place that is made from the spare.

    Raises ``OSError`` and ``sqlite3.Error`` where the disk refuses: then nothing was changed.
    """
    made = path.with_name(f"{path.name}.restored")
    restored = spare.restore(str(made))
    aside = path.with_name(f"{path.name}.unfit-{time.time_ns()}")
    path.rename(aside)
    with suppress(FileNotFoundError):
        path.with_name(f"{path.name}-wal").rename(aside.with_name(f"{aside.name}-wal"))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    if restored:
        made.rename(path)
        instead = "made anew from its spare"
    else:
        spare.discard()
        instead = "begun anew: there is no spare, and what runs will be ended"
    log.error("%s cannot be used (%s): it is set aside as %s, and %s", path, fault, aside.name, instead)
