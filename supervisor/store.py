"""State on disk: one SQLite file, written before an answer leaves.

Safe against the death of any process, not of the machine (no fsync): a reboot ends the instances anyway.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from sandbox_api.errors import Internal, ResourceExhausted
from sandbox_api.interface import Exit, Mount, NewSandbox, Stdio

from .container import Container
from .prepared import Prepared
from .process import Process, ProcessState
from .rootfs import Plan
from .sandbox import Sandbox, SandboxState
from .spec import Bind, Tmpfs

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE sandboxes (
    namespace TEXT NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL, netns TEXT NOT NULL,
    config BLOB NOT NULL,       -- CRI's PodSandboxConfig, encoded
    annotations TEXT NOT NULL, labels TEXT NOT NULL,
    created_at INTEGER NOT NULL, exited_at INTEGER NOT NULL,
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
    state TEXT NOT NULL, pid INTEGER NOT NULL, born INTEGER NOT NULL,
    stdin TEXT NOT NULL, stdout TEXT NOT NULL, stderr TEXT NOT NULL, terminal INTEGER NOT NULL,
    spec BLOB NOT NULL,         -- of an exec: its OCI process
    pumped INTEGER NOT NULL, exit_status INTEGER, exited_at INTEGER,
    UNIQUE (namespace, container_id, exec_id)
);
CREATE TABLE prepared (
    namespace TEXT NOT NULL, container_id TEXT NOT NULL, exec_id TEXT NOT NULL, sandbox_id TEXT NOT NULL,
    spec BLOB NOT NULL, rootfs TEXT NOT NULL,
    stdin TEXT NOT NULL, stdout TEXT NOT NULL, stderr TEXT NOT NULL, terminal INTEGER NOT NULL,
    bundle TEXT NOT NULL,
    PRIMARY KEY (namespace, container_id, exec_id)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a container was made from; kept here only, since a node has many."""

    config: bytes
    plan: Plan


class Made(IntEnum):
    """How far a container's making is."""

    UNFINISHED = 0
    DONE = 1
    CHANGING = 2
    """Its control group is being changed, frozen or thawed: the record says what it may have by now."""


class StoreFailed(Internal):
    """The state file could not be written or read: a full or read-only disk, say. Nothing was changed."""


class StoreFull(ResourceExhausted, StoreFailed):
    """There is no room on the disk."""


class StoreUnfit(Exception):
    """The state file cannot be used at all: corrupt, or of another version."""


class Store:
    """The state file. Every method is one transaction, and raises ``StoreFailed`` where the disk refuses."""

    def __init__(self, path: str) -> None:
        """Open the file, or make it. Raises ``StoreUnfit``, and ``StoreFailed`` where the disk refuses."""
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = OFF")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            (health,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            self._db.close()
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise StoreUnfit(str(error)) from None
            raise _failure(path, error) from None  # the disk's fault: the file may be good
        if version not in (0, SCHEMA_VERSION):
            self._db.close()
            raise StoreUnfit(f"it is of version {version}, and this sandboxer reads {SCHEMA_VERSION}")
        if health != "ok":
            self._db.close()
            raise StoreUnfit(health)

    def _run(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise _failure(self._path, error) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.rollback()
            if isinstance(error, sqlite3.Error):
                raise _failure(self._path, error) from None
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_sandbox(self, sandbox: Sandbox, new: NewSandbox) -> None:
        """Record a new sandbox."""
        self._run(
            "INSERT INTO sandboxes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                sandbox.namespace,
                sandbox.id,
                sandbox.state,
                sandbox.netns,
                new.config,
                json.dumps(new.annotations),
                json.dumps(sandbox.labels),
                sandbox.created_at,
                sandbox.exited_at,
            ),
        )

    def update_sandbox(self, sandbox: Sandbox) -> None:
        """Record its state and labels."""
        self._run(
            "UPDATE sandboxes SET state = ?, labels = ?, exited_at = ? WHERE namespace = ? AND id = ?",
            (sandbox.state, json.dumps(sandbox.labels), sandbox.exited_at, sandbox.namespace, sandbox.id),
        )

    def remove_sandbox(self, sandbox: Sandbox) -> None:
        """Forget it. Its containers are removed before."""
        self._run("DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (sandbox.namespace, sandbox.id))

    def sandboxes(self) -> Iterator[Sandbox]:
        """Every sandbox on record."""
        rows = self._run("SELECT namespace, id, netns, labels, state, created_at, exited_at FROM sandboxes")
        for namespace, sandbox_id, netns, labels, state, created_at, exited_at in rows:
            yield Sandbox(namespace, sandbox_id, netns, json.loads(labels), SandboxState(state), created_at, exited_at)

    def add_container(
        self, container: Container, recorded: Recorded, cgroup: str, made: Made = Made.UNFINISHED
    ) -> None:
        """Record a new container and its init process, which is given its instance number.

        ``cgroup`` is what its control group's state will be, "" where it gets none.
        """
        with self._transaction():
            self._run(
                "INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    container.namespace,
                    container.id,
                    container.sandbox_id,
                    container.bundle,
                    recorded.config,
                    json.dumps(recorded.plan, default=_members),
                    cgroup,
                    made,
                ),
            )
            self._insert_process(container, container.init)

    def update_container(self, container: Container) -> None:
        """Record that all is made for it, and its control group."""
        self._set_cgroup(container, Made.DONE, container.cgroup.state if container.cgroup else "")

    def change_container(self, container: Container, cgroup: str) -> None:
        """Record that its control group is about to be changed; ``cgroup`` is the state it will have."""
        self._set_cgroup(container, Made.CHANGING, cgroup)

    def _set_cgroup(self, container: Container, made: Made, cgroup: str) -> None:
        self._run(
            "UPDATE containers SET made = ?, cgroup = ? WHERE namespace = ? AND id = ?",
            (made, cgroup, container.namespace, container.id),
        )

    def recorded(self, container: Container) -> Recorded:
        """What the container was made from."""
        row = self._run(
            "SELECT config, plan FROM containers WHERE namespace = ? AND id = ?", (container.namespace, container.id)
        ).fetchone()
        return Recorded(row[0], _plan(row[1]))

    def remove_container(self, container: Container) -> None:
        """Forget it and its processes."""
        key = (container.namespace, container.id)
        with self._transaction():
            self._run("DELETE FROM processes WHERE namespace = ? AND container_id = ?", key)
            self._run("DELETE FROM containers WHERE namespace = ? AND id = ?", key)

    def containers(self) -> Iterator[tuple[Container, str, Made]]:
        """Every container on record with its processes; its control group's state ("": none); how far it was made."""
        execs: dict[tuple[str, str], dict[str, Process]] = {}
        rows = self._run(
            "SELECT namespace, container_id, instance, exec_id, state, pid, born, stdin, stdout, stderr, terminal,"
            " pumped, exit_status, exited_at FROM processes"
        )
        for namespace, container_id, instance, exec_id, state, pid, born, *rest in rows:
            stdin, stdout, stderr, terminal, pumped, status, at = rest
            process = Process(
                instance,
                f"{container_id}/{exec_id}" if exec_id else container_id,
                exec_id,
                Stdio(stdin, stdout, stderr, bool(terminal)),
                ProcessState(state),
                pid,
                born,
                None if status is None else Exit(status, at),
                bool(pumped),
            )
            execs.setdefault((namespace, container_id), {})[exec_id] = process
        for namespace, container_id, sandbox_id, bundle, cgroup, made in self._run(
            "SELECT namespace, id, sandbox_id, bundle, cgroup, made FROM containers"
        ):
            processes = execs[namespace, container_id]
            init = processes.pop("")
            yield (
                Container(namespace, container_id, sandbox_id, bundle, init, execs=processes or None),
                cgroup,
                Made(made),
            )

    def add_process(self, container: Container, process: Process, spec: bytes) -> None:
        """Record an exec, which is given its instance number."""
        self._insert_process(container, process, spec)

    def exec_spec(self, process: Process) -> bytes:
        """The OCI process, as JSON, of an exec."""
        row = self._run("SELECT spec FROM processes WHERE instance = ?", (process.instance,)).fetchone()
        return bytes(row[0])

    def update_process(self, process: Process) -> None:
        """Record its state, pid and exit."""
        self.update_processes([process])

    def update_processes(self, processes: list[Process]) -> None:
        """Record the state, pid and exit of many at once."""
        if not processes:
            return
        with self._transaction():
            self._db.executemany(
                "UPDATE processes SET state = ?, pid = ?, born = ?, pumped = ?, exit_status = ?, exited_at = ?"
                " WHERE instance = ?",
                [
                    (
                        process.state,
                        process.pid,
                        process.born,
                        process.pumped,
                        process.exit.status if process.exit else None,
                        process.exit.at if process.exit else None,
                        process.instance,
                    )
                    for process in processes
                ],
            )

    def remove_process(self, process: Process) -> None:
        """Forget an exec."""
        self._run("DELETE FROM processes WHERE instance = ?", (process.instance,))

    def add_prepared(self, namespace: str, prepared: Prepared) -> None:
        """Record a preparation."""
        stdio = prepared.stdio
        self._run(
            "INSERT INTO prepared VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                namespace,
                prepared.container_id,
                prepared.exec_id,
                prepared.sandbox_id,
                prepared.spec,
                json.dumps([asdict(mount) for mount in prepared.rootfs]),
                stdio.stdin,
                stdio.stdout,
                stdio.stderr,
                stdio.terminal,
                prepared.bundle,
            ),
        )

    def prepared(self, namespace: str, container_id: str, exec_id: str) -> Prepared | None:
        """The preparation of a container or an exec, if there is one."""
        row = self._run(
            f"SELECT {_PREPARED} FROM prepared WHERE namespace = ? AND container_id = ? AND exec_id = ?",
            (namespace, container_id, exec_id),
        ).fetchone()
        return _prepared(*row) if row else None

    def all_prepared(self, namespace: str, sandbox_id: str) -> list[Prepared]:
        """All preparations of a sandbox."""
        rows = self._run(
            f"SELECT {_PREPARED} FROM prepared WHERE namespace = ? AND sandbox_id = ?", (namespace, sandbox_id)
        )
        return [_prepared(*row) for row in rows.fetchall()]

    def remove_prepared(self, namespace: str, prepared: Prepared) -> None:
        """Forget a preparation."""
        self._run(
            "DELETE FROM prepared WHERE namespace = ? AND container_id = ? AND exec_id = ?",
            (namespace, prepared.container_id, prepared.exec_id),
        )

    def _insert_process(self, container: Container, process: Process, spec: bytes = b"") -> None:
        stdio = process.stdio
        cursor = self._run(
            "INSERT INTO processes (namespace, container_id, exec_id, state, pid, born, stdin, stdout, stderr,"
            " terminal, spec, pumped) VALUES (?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?, 0)",
            (
                container.namespace,
                container.id,
                process.exec_id,
                process.state,
                stdio.stdin,
                stdio.stdout,
                stdio.stderr,
                stdio.terminal,
                spec,
            ),
        )
        process.instance = cursor.lastrowid or 0


def _failure(path: str, error: sqlite3.Error) -> StoreFailed:
    full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL  # the rest of it tells more closely
    return (StoreFull if full else StoreFailed)(f"{path}: {error}")


def _members(value: Any) -> dict[str, object]:
    """A dataclass with slots as JSON; ``dataclasses.asdict`` would copy all that is in it first."""
    return {name: getattr(value, name) for name in value.__slots__}


def _plan(text: str) -> Plan:
    values = json.loads(text)
    return Plan(
        root=values["root"],
        rootfs=_mounts(values["rootfs"]),
        binds=tuple(Bind(**each) for each in values["binds"]),
        tmpfs=tuple(Tmpfs(**each) for each in values["tmpfs"]),
        tmpfs_folder=values["tmpfs_folder"],
        masked=tuple(values["masked"]),
        readonly=tuple(values["readonly"]),
        mount_id=values["mount_id"],
    )


_PREPARED = "sandbox_id, container_id, exec_id, spec, rootfs, stdin, stdout, stderr, terminal, bundle"


def _prepared(
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
) -> Prepared:
    stdio = Stdio(stdin, stdout, stderr, bool(terminal))
    return Prepared(sandbox_id, container_id, exec_id, spec, _mounts(json.loads(rootfs)), stdio, bundle)


def _mounts(values: list[dict[str, Any]]) -> tuple[Mount, ...]:
    return tuple(Mount(**{**each, "options": tuple(each["options"])}) for each in values)
