"""The state file's tables, how an older file is brought up to them, and how damage to one is seen."""

from __future__ import annotations

import sqlite3
import zlib

VERSION = 2

_TABLES = """
CREATE TABLE sandboxes (
    namespace TEXT NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL, netns TEXT NOT NULL,
    config BLOB NOT NULL,       -- CRI's PodSandboxConfig, encoded
    annotations TEXT NOT NULL, labels TEXT NOT NULL,
    created_at INTEGER NOT NULL, exited_at INTEGER NOT NULL,
    checksum INTEGER NOT NULL DEFAULT 0,    -- of what may be longer than a page
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;
CREATE TABLE containers (
    namespace TEXT NOT NULL, id TEXT NOT NULL, sandbox_id TEXT NOT NULL, bundle TEXT NOT NULL,
    config BLOB NOT NULL,       -- config.json as it was at Create
    plan TEXT NOT NULL,         -- what is mounted for it, recorded before it is
    cgroup TEXT NOT NULL,
    made INTEGER NOT NULL,      -- 0 until all that was planned is there, 2 while its control group is changed
    checksum INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;
CREATE TABLE processes (
    instance INTEGER PRIMARY KEY AUTOINCREMENT,     -- never given twice
    namespace TEXT NOT NULL, container_id TEXT NOT NULL, exec_id TEXT NOT NULL,
    state TEXT NOT NULL, pid INTEGER NOT NULL, start_time INTEGER NOT NULL,
    stdin TEXT NOT NULL, stdout TEXT NOT NULL, stderr TEXT NOT NULL, terminal INTEGER NOT NULL,
    spec BLOB NOT NULL,         -- of an exec: its OCI process
    pumped INTEGER NOT NULL, exit_status INTEGER, exited_at INTEGER,
    checksum INTEGER NOT NULL DEFAULT 0,
    UNIQUE (namespace, container_id, exec_id)
);
CREATE TABLE prepared (
    namespace TEXT NOT NULL, container_id TEXT NOT NULL, exec_id TEXT NOT NULL, sandbox_id TEXT NOT NULL,
    spec BLOB NOT NULL, rootfs TEXT NOT NULL,
    stdin TEXT NOT NULL, stdout TEXT NOT NULL, stderr TEXT NOT NULL, terminal INTEGER NOT NULL,
    bundle TEXT NOT NULL,
    checksum INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, container_id, exec_id)
) WITHOUT ROWID;
"""
_SERIAL = "CREATE TABLE serial (number INTEGER NOT NULL); INSERT INTO serial VALUES (0);"

_CHECKSUMS = {
    "sandboxes": "crc32(config, annotations, labels)",
    "containers": "crc32(config, plan)",
    "processes": "crc32(spec)",
    "prepared": "crc32(spec, rootfs)",
}
"""SQLite sees damage to a page that has a structure, but not to one that only continues a long value."""

_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_ERROR,  # a table that is not there, say
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_SCHEMA,
    }
)


def connect(path: str) -> sqlite3.Connection:
    """Open a state file. Raises ``sqlite3.Error``."""
    db = sqlite3.connect(path, isolation_level=None)
    db.create_function("crc32", -1, _crc32, deterministic=True)
    return db


def prepare(db: sqlite3.Connection) -> int:
    """Make the tables where there are none, and bring older ones up to this version; the version that it has now.

    Raises ``sqlite3.Error``.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        todo = _TABLES + _SERIAL
    elif version == 1:
        todo = _SERIAL
        for table, checksum in _CHECKSUMS.items():
            todo += f"ALTER TABLE {table} ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;"
            todo += f"UPDATE {table} SET checksum = {checksum};"
    else:
        return int(version)
    db.executescript(f"BEGIN; {todo} PRAGMA user_version = {VERSION}; COMMIT;")
    return VERSION


def fault(db: sqlite3.Connection, version: int = VERSION) -> str:
    """What is wrong with a state file; "" where nothing is. Raises ``sqlite3.Error``, as damaged files do, too."""
    (health,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if health != "ok" or version != VERSION:
        return "" if health == "ok" else str(health)
    for table, checksum in _CHECKSUMS.items():
        if db.execute(f"SELECT 1 FROM {table} WHERE checksum IS NOT {checksum} LIMIT 1").fetchone():
            return f"a value in {table} is damaged"
    return ""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is to blame, and not the disk, memory or who else has it open."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGE


def serial(db: sqlite3.Connection) -> int:
    """How many transactions there have been. Raises ``sqlite3.Error``."""
    (number,) = db.execute("SELECT number FROM serial").fetchone()
    return int(number)


def _crc32(*values: str | bytes) -> int:
    checksum = 0
    for value in values:
        checksum = zlib.crc32(value.encode() if isinstance(value, str) else value, checksum)
    return checksum
