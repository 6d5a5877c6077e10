"""State on disk: one SQLite file, written before an answer leaves.

Safe against the death of any process, not of the machine (no fsync): a reboot ends the instances anyway.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

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
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;
CREATE TABLE processes (
    instance INTEGER PRIMARY KEY AUTOINCREMENT,     -- never given twice
    namespace TEXT NOT NULL, container_id TEXT NOT NULL, exec_id TEXT NOT NULL,
    state TEXT NOT NULL, pid INTEGER NOT NULL,
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


class Store:
    """The state file. Every method is one transaction; all raise ``sqlite3.Error`` when the disk refuses."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"{path} is of version {version}; this sandboxer reads {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_sandbox(self, sandbox: Sandbox, new: NewSandbox) -> None:
        """Record a new sandbox."""
        self._db.execute(
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
        self._db.execute(
            "UPDATE sandboxes SET state = ?, labels = ?, exited_at = ? WHERE namespace = ? AND id = ?",
            (sandbox.state, json.dumps(sandbox.labels), sandbox.exited_at, sandbox.namespace, sandbox.id),
        )

    def remove_sandbox(self, sandbox: Sandbox) -> None:
        """Forget it. Its containers are removed before."""
        self._db.execute("DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (sandbox.namespace, sandbox.id))

    def sandboxes(self) -> Iterator[Sandbox]:
        """Every sandbox on record."""
        rows = self._db.execute("SELECT namespace, id, netns, labels, state, created_at, exited_at FROM sandboxes")
        for namespace, sandbox_id, netns, labels, state, created_at, exited_at in rows:
            yield Sandbox(namespace, sandbox_id, netns, json.loads(labels), SandboxState(state), created_at, exited_at)

    def add_container(self, container: Container, recorded: Recorded) -> None:
        """Record a new container and its init process, which is given its instance number."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute(
                "INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    container.namespace,
                    container.id,
                    container.sandbox_id,
                    container.bundle,
                    recorded.config,
                    json.dumps(asdict(recorded.plan)),
                    "",
                ),
            )
            self._insert_process(container, container.init)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def update_container(self, container: Container) -> None:
        """Record its control group."""
        self._db.execute(
            "UPDATE containers SET cgroup = ? WHERE namespace = ? AND id = ?",
            (container.cgroup.state if container.cgroup else "", container.namespace, container.id),
        )

    def recorded(self, container: Container) -> Recorded:
        """What the container was made from."""
        row = self._db.execute(
            "SELECT config, plan FROM containers WHERE namespace = ? AND id = ?", (container.namespace, container.id)
        ).fetchone()
        return Recorded(row[0], _plan(row[1]))

    def remove_container(self, container: Container) -> None:
        """Forget it and its processes."""
        key = (container.namespace, container.id)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM processes WHERE namespace = ? AND container_id = ?", key)
        self._db.execute("DELETE FROM containers WHERE namespace = ? AND id = ?", key)
        self._db.execute("COMMIT")

    def containers(self) -> Iterator[tuple[Container, str]]:
        """Every container on record, with its processes, and the state of its control group ("": none)."""
        execs: dict[tuple[str, str], dict[str, Process]] = {}
        rows = self._db.execute(
            "SELECT namespace, container_id, instance, exec_id, state, pid, stdin, stdout, stderr, terminal, pumped,"
            " exit_status, exited_at FROM processes"
        )
        for namespace, container_id, instance, exec_id, state, pid, *rest in rows:
            stdin, stdout, stderr, terminal, pumped, status, at = rest
            process = Process(
                instance,
                f"{container_id}/{exec_id}" if exec_id else container_id,
                exec_id,
                Stdio(stdin, stdout, stderr, bool(terminal)),
                ProcessState(state),
                pid,
                None if status is None else Exit(status, at),
                bool(pumped),
            )
            execs.setdefault((namespace, container_id), {})[exec_id] = process
        for namespace, container_id, sandbox_id, bundle, cgroup in self._db.execute(
            "SELECT namespace, id, sandbox_id, bundle, cgroup FROM containers"
        ):
            processes = execs[namespace, container_id]
            init = processes.pop("")
            yield Container(namespace, container_id, sandbox_id, bundle, init, execs=processes or None), cgroup

    def add_process(self, container: Container, process: Process, spec: bytes) -> None:
        """Record an exec, which is given its instance number."""
        self._insert_process(container, process, spec)

    def exec_spec(self, process: Process) -> bytes:
        """The OCI process, as JSON, of an exec."""
        row = self._db.execute("SELECT spec FROM processes WHERE instance = ?", (process.instance,)).fetchone()
        return bytes(row[0])

    def update_process(self, process: Process) -> None:
        """Record its state, pid and exit."""
        self.update_processes([process])

    def update_processes(self, processes: list[Process]) -> None:
        """Record the state, pid and exit of many at once."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "UPDATE processes SET state = ?, pid = ?, pumped = ?, exit_status = ?, exited_at = ? WHERE instance = ?",
            [
                (
                    process.state,
                    process.pid,
                    process.pumped,
                    process.exit.status if process.exit else None,
                    process.exit.at if process.exit else None,
                    process.instance,
                )
                for process in processes
            ],
        )
        self._db.execute("COMMIT")

    def remove_process(self, process: Process) -> None:
        """Forget an exec."""
        self._db.execute("DELETE FROM processes WHERE instance = ?", (process.instance,))

    def add_prepared(self, namespace: str, prepared: Prepared) -> None:
        """Record a preparation."""
        stdio = prepared.stdio
        self._db.execute(
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
        row = self._db.execute(
            f"SELECT {_PREPARED} FROM prepared WHERE namespace = ? AND container_id = ? AND exec_id = ?",
            (namespace, container_id, exec_id),
        ).fetchone()
        return _prepared(*row) if row else None

    def all_prepared(self, namespace: str, sandbox_id: str) -> list[Prepared]:
        """All preparations of a sandbox."""
        rows = self._db.execute(
            f"SELECT {_PREPARED} FROM prepared WHERE namespace = ? AND sandbox_id = ?", (namespace, sandbox_id)
        )
        return [_prepared(*row) for row in rows.fetchall()]

    def remove_prepared(self, namespace: str, prepared: Prepared) -> None:
        """Forget a preparation."""
        self._db.execute(
            "DELETE FROM prepared WHERE namespace = ? AND container_id = ? AND exec_id = ?",
            (namespace, prepared.container_id, prepared.exec_id),
        )

    def _insert_process(self, container: Container, process: Process, spec: bytes = b"") -> None:
        stdio = process.stdio
        cursor = self._db.execute(
            "INSERT INTO processes (namespace, container_id, exec_id, state, pid, stdin, stdout, stderr, terminal,"
            " spec, pumped) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?, 0)",
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


def _plan(text: str) -> Plan:
    values = json.loads(text)
    return Plan(
        root=values["root"],
        rootfs=_mounts(values["rootfs"]),
        binds=tuple(Bind(**each) for each in values["binds"]),
        tmpfs=tuple(Tmpfs(**each) for each in values["tmpfs"]),
        tmpfs_folder=values["tmpfs_folder"],
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
