"""The state file's tables, conversions from and to their rows, and signs of damage.

Tables and columns are added, with defaults, and never changed: an older sandboxer leaves those that it does not know as
they are, and may read and write the file down to the version that it names (docs/upgrading.md).
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from sandbox_api.interface import Mount, NewContainer, NewExec, Preparation, Stdio

from ..model.prepared import Prepared
from ..oci.rootfs import MountPlan
from ..oci.spec import Bind, Tmpfs
from . import rows

T = TypeVar("T")

VERSION = 8
"""Version of the tables below."""
OLDEST = 8
"""The oldest version that is migrated. Older ones have no oldest reader."""

_TABLES = """
CREATE TABLE format (oldest_reader INTEGER NOT NULL);   -- the oldest version that may read and write this file
CREATE TABLE boot (id TEXT NOT NULL);       -- of the kernel under which all that is recorded ran
CREATE TABLE sandboxes (
    namespace TEXT NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL, netns TEXT NOT NULL,
    config BLOB NOT NULL,       -- CRI's PodSandboxConfig, encoded
    annotations TEXT NOT NULL, labels TEXT NOT NULL,
    created_at INTEGER NOT NULL, exited_at INTEGER NOT NULL,
    pids TEXT NOT NULL,         -- that were answered for it
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;
CREATE TABLE containers (
    namespace TEXT NOT NULL, id TEXT NOT NULL, sandbox_id TEXT NOT NULL, bundle TEXT NOT NULL,
    config BLOB NOT NULL,       -- config.json as it was at Create
    plan TEXT NOT NULL,         -- what is mounted for it, recorded before it is
    cgroup TEXT NOT NULL,
    made INTEGER NOT NULL,      -- 0 until all that was planned is there, 2 while its control group is changed
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;
CREATE TABLE processes (
    instance INTEGER PRIMARY KEY AUTOINCREMENT,     -- never given twice
    namespace TEXT NOT NULL, container_id TEXT NOT NULL, exec_id TEXT NOT NULL,
    state TEXT NOT NULL, pid INTEGER NOT NULL, start_time INTEGER NOT NULL,
    stdin TEXT NOT NULL, stdout TEXT NOT NULL, stderr TEXT NOT NULL, terminal INTEGER NOT NULL,
    spec BLOB NOT NULL,         -- of an exec: its OCI process
    pumped INTEGER NOT NULL, exit_status INTEGER, exited_at INTEGER,
    purged INTEGER NOT NULL DEFAULT 0,      -- an exec that goes when it ends
    tier TEXT NOT NULL DEFAULT '',          -- interpreted, or compiled at a level, +image if mapped from one
    UNIQUE (namespace, container_id, exec_id)
);
CREATE TABLE prepared (
    namespace TEXT NOT NULL, container_id TEXT NOT NULL, exec_id TEXT NOT NULL, sandbox_id TEXT NOT NULL,
    spec BLOB NOT NULL, rootfs TEXT NOT NULL,
    stdin TEXT NOT NULL, stdout TEXT NOT NULL, stderr TEXT NOT NULL, terminal INTEGER NOT NULL,
    bundle TEXT NOT NULL,       -- "" once it is spent
    listed INTEGER NOT NULL,    -- it came in a whole list, and will be in the next again
    digest TEXT NOT NULL,       -- of all that was handed over
    PRIMARY KEY (namespace, container_id, exec_id)
) WITHOUT ROWID;
"""

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


def prepare(db: sqlite3.Connection) -> bool:
    """Make the tables where there are none; whether that was so. Raises ``sqlite3.Error``."""
    if version(db):
        return False
    db.executescript(
        f"BEGIN; {_TABLES} INSERT INTO boot (id) VALUES ('{_boot_id()}');"
        f" INSERT INTO format (oldest_reader) VALUES ({OLDEST}); PRAGMA user_version = {VERSION}; COMMIT;"
    )
    return True


_MIGRATIONS: dict[int, str] = {}
"""By version, what makes the next one's tables of its: ``ALTER TABLE ... ADD COLUMN ... NOT NULL DEFAULT ...;``. One
whose records the versions before must not see raises ``oldest_reader`` when it writes the first."""


def oldest_reader(db: sqlite3.Connection) -> int:
    """The oldest version that may read and write the file. Raises ``sqlite3.Error``."""
    (oldest,) = db.execute("SELECT oldest_reader FROM format").fetchone()
    return int(oldest)


def migrate(db: sqlite3.Connection, copy: str) -> None:
    """Bring a file of an older version to ours, in one transaction; the file as it was is kept as ``copy``.

    Raises ``sqlite3.Error``, and leaves it as it was then.
    """
    db.execute("VACUUM INTO ?", (copy,))
    steps = "".join(_MIGRATIONS[number] for number in range(version(db), VERSION))
    try:
        db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;")
    except sqlite3.Error:
        db.rollback()
        raise


def of_this_boot(db: sqlite3.Connection) -> bool:
    """Whether the machine has not been restarted since the file was begun. Raises ``sqlite3.Error``."""
    (boot,) = db.execute("SELECT id FROM boot").fetchone()
    return bool(boot == _boot_id())


def _boot_id() -> str:
    """The kernel's name for this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def version(db: sqlite3.Connection) -> int:
    """The file's version; 0 where it has no tables. Raises ``sqlite3.Error``."""
    (number,) = db.execute("PRAGMA user_version").fetchone()
    return int(number)


def fault(db: sqlite3.Connection) -> str:
    """Check the file; its fault, or "" where it has none. Raises ``sqlite3.Error``, as damaged files do, too."""
    (health,) = db.execute("PRAGMA quick_check(1)").fetchone()
    return "" if health == "ok" else str(health)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is to blame, and not the disk, memory or who else has it open."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGE


def members(value: Any) -> dict[str, object]:
    """The members of a dataclass with slots, for JSON; ``dataclasses.asdict`` would copy all that is in it first."""
    return {name: getattr(value, name) for name in value.__slots__}


def plan_of(text: str) -> MountPlan:
    """A plan from its JSON. Raises ``ValueError``, ``KeyError`` and ``TypeError``."""
    values = json.loads(text)
    for name in ("inner", "masked", "readonly", "pod_files"):
        values[name] = rows.texts(values[name])
    values["rootfs"] = _mounts(values["rootfs"])
    values["binds"] = tuple(_made(Bind, each) for each in values["binds"])
    values["tmpfs"] = tuple(_made(Tmpfs, each) for each in values["tmpfs"])
    return _made(MountPlan, values)


def known(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The members that a dataclass with slots has here: a later version may have recorded others."""
    return {name: value for name, value in values.items() if name in kind.__slots__}


def insertion(table: str, columns: str, verb: str = "INSERT") -> str:
    """The statement that adds a row. It names its columns: there may be others, of a later version."""
    return f"{verb} INTO {table} ({columns}) VALUES ({', '.join('?' * len(columns.split(',')))})"


ADD_SANDBOX = insertion(
    "sandboxes", "namespace, id, state, netns, config, annotations, labels, created_at, exited_at, pids"
)
ADD_CONTAINER = insertion("containers", "namespace, id, sandbox_id, bundle, config, plan, cgroup, made")
ADD_PROCESS = insertion(
    "processes",
    "namespace, container_id, exec_id, state, stdin, stdout, stderr, terminal, spec, pid, start_time, pumped",
)
PREPARED_COLUMNS = (
    "sandbox_id, container_id, exec_id, spec, rootfs, stdin, stdout, stderr, terminal, bundle, listed, digest"
)
ADD_PREPARED = insertion("prepared", f"namespace, {PREPARED_COLUMNS}", "INSERT OR REPLACE")


def prepared_of(
    sandbox_id: str,
    container_id: str,
    exec_id: str,
    spec: bytes,
    rootfs: str,
    stdin: str,
    stdout: str,
    stderr: str,
    terminal: int,
    bundle: str,
    listed: int,
    digest: str,
) -> Prepared[Any]:
    """A preparation from its row: ``PREPARED_COLUMNS``. Raises ``ValueError``, ``KeyError`` and ``TypeError``."""
    texts = sandbox_id, container_id, exec_id, rootfs, stdin, stdout, stderr, bundle, digest
    rows.checked((spec, terminal, listed, *texts), bytes, int, int, *[str] * len(texts))
    stdio = Stdio(stdin, stdout, stderr, bool(terminal))
    new: Preparation
    if exec_id:
        new = NewExec(container_id, exec_id, spec, stdio)
    else:
        new = NewContainer(container_id, spec, stdio, _mounts(json.loads(rootfs)))
    return Prepared(sandbox_id, new, bundle, bool(listed), digest)


def _mounts(values: list[dict[str, Any]]) -> tuple[Mount, ...]:
    return tuple(_made(Mount, {**each, "options": rows.texts(each["options"])}) for each in values)


def _made(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass's value of these members. Raises ``TypeError`` where one is missing or of another kind."""
    made = kind(**known(kind, values))
    for name, kinds in _SIMPLE[kind]:
        if type(getattr(made, name)) is not kinds:
            raise TypeError(f"{kind.__name__}.{name} is {type(getattr(made, name)).__name__}")
    return made


_KINDS = {"str": str, "int": int, "bool": bool}
_SIMPLE: dict[type, list[tuple[str, type]]] = {
    kind: [(each.name, _KINDS[str(each.type)]) for each in fields(kind) if each.type in _KINDS]
    for kind in (Bind, Tmpfs, Mount, MountPlan)
}
"""Members that are no lists, and their kinds."""
