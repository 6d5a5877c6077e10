"""State on disk: one SQLite file, written before an answer leaves.

Safe against the death of any process, not of the machine (no fsync): a reboot ends the instances anyway.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

from sandbox_api.errors import Internal, ResourceExhausted, Unavailable
from sandbox_api.interface import Exit, NewSandbox, Stdio

from ..model.container import Container
from ..model.prepared import Prepared
from ..model.process import Process, ProcessState
from ..model.sandbox import Sandbox, SandboxState
from ..oci.rootfs import MountPlan
from . import file as state_file
from . import rows
from .spare import Spare, Statement

_CHANGES = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a container was made from; kept here only, since a node has many."""

    config: bytes
    plan: MountPlan


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


class StoreMended(Unavailable, StoreFailed):
    """The state file was damaged, and has been made anew. Nothing was changed."""


class Store:
    """The state file. Every method is one transaction, and raises ``StoreFailed`` where the disk refuses."""

    def __init__(self, path: str) -> None:
        """Open the file, or make it; one that is damaged is made anew from its spare.

        Raises ``StoreFailed`` where the disk refuses, and ``state_file.Foreign``.
        """
        self._path = path
        self._spare = Spare(os.path.join(os.path.dirname(path), "spare"))
        self._changes: list[Statement] | None = None
        """Of the transaction that is under way, if there is one."""
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise _failure(path, error) from None

    def _open(self) -> None:
        try:
            self._db, self._serial = state_file.open_checked(self._path, self._spare)
        except state_file.Unfit as error:
            state_file.replace(Path(self._path), self._spare, str(error))
            self._db, self._serial = state_file.open_checked(self._path, self._spare)
        self._spare.renew(self._db)

    def _failed(self, error: sqlite3.Error) -> StoreFailed:
        """What to raise. Damage that shows while we run is mended, now or when it shows the next time."""
        damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if not damaged and not isinstance(error, sqlite3.ProgrammingError):  # this one: it could not be opened again
            return _failure(self._path, error)
        return self._mend()

    def _mend(self) -> StoreFailed:
        self._db.close()  # before there is another of its name: it takes that one's journal with it
        try:
            self._open()
        except (sqlite3.Error, OSError, state_file.Unfit) as worse:
            return _failure(self._path, worse)
        return StoreMended(f"{self._path} was damaged, and is made anew: try again")

    def _run(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a statement: a change either in the transaction that is under way, or in one of its own."""
        change = sql.startswith(_CHANGES)
        if self._changes is not None:
            if change:
                self._changes.append((sql, values))
            return self._db.execute(sql, values)
        if change:
            with self._transaction():
                return self._run(sql, values)
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        number = self._serial + 1
        changes = self._changes = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("UPDATE serial SET number = ?", (number,))
            self._db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._db.rollback()
            if isinstance(error, sqlite3.Error):
                raise self._failed(error) from None
            raise
        finally:
            self._changes = None
        self._serial = number
        self._spare.add(self._db, number, changes)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._spare.close()

    def add_sandbox(self, sandbox: Sandbox, new: NewSandbox) -> None:
        """Record a new sandbox."""
        self._run(
            "INSERT INTO sandboxes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, crc32(?5, ?6, ?7))",
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
            "UPDATE sandboxes SET state = ?, labels = ?, exited_at = ?, checksum = crc32(config, annotations, ?2)"
            " WHERE namespace = ? AND id = ?",
            (sandbox.state, json.dumps(sandbox.labels), sandbox.exited_at, sandbox.namespace, sandbox.id),
        )

    def remove_sandbox(self, sandbox: Sandbox) -> None:
        """Forget it. Its containers are removed before."""
        self._run("DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (sandbox.namespace, sandbox.id))

    def sandboxes(self) -> Iterator[Sandbox]:
        """Every sandbox on record."""
        found = self._run("SELECT namespace, id, netns, labels, state, created_at, exited_at FROM sandboxes")
        for namespace, sandbox_id, netns, labels, state, created_at, exited_at in found:
            yield Sandbox(namespace, sandbox_id, netns, json.loads(labels), SandboxState(state), created_at, exited_at)

    def add_container(
        self, container: Container, recorded: Recorded, cgroup: str, made: Made = Made.UNFINISHED
    ) -> None:
        """Record a new container and its init process, which is given its instance number.

        ``cgroup`` is what its control group's state will be, "" where it gets none.
        """
        with self._transaction():
            self._run(
                "INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?, ?, crc32(?5, ?6))",
                (
                    container.namespace,
                    container.id,
                    container.sandbox_id,
                    container.bundle,
                    recorded.config,
                    json.dumps(recorded.plan, default=rows.members),
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
        config, plan, sound = self._run(
            "SELECT config, plan, checksum = crc32(config, plan) FROM containers WHERE namespace = ? AND id = ?",
            (container.namespace, container.id),
        ).fetchone()
        if not sound:
            raise self._mend()
        return Recorded(config, rows.plan_of(plan))

    def remove_container(self, container: Container) -> None:
        """Forget it and its processes."""
        key = (container.namespace, container.id)
        with self._transaction():
            self._run("DELETE FROM processes WHERE namespace = ? AND container_id = ?", key)
            self._run("DELETE FROM containers WHERE namespace = ? AND id = ?", key)

    def containers(self) -> Iterator[tuple[Container, str, Made]]:
        """Every container on record with its processes; its control group's state ("": none); how far it was made."""
        execs: dict[tuple[str, str], dict[str, Process]] = {}
        found = self._run(
            "SELECT namespace, container_id, instance, exec_id, state, pid, start_time, stdin, stdout, stderr,"
            " terminal, pumped, exit_status, exited_at FROM processes"
        )
        for namespace, container_id, instance, exec_id, state, pid, start_time, *rest in found:
            stdin, stdout, stderr, terminal, pumped, status, at = rest
            process = Process(
                instance,
                f"{container_id}/{exec_id}" if exec_id else container_id,
                exec_id,
                Stdio(stdin, stdout, stderr, bool(terminal)),
                ProcessState(state),
                pid,
                start_time,
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
        spec, sound = self._run(
            "SELECT spec, checksum = crc32(spec) FROM processes WHERE instance = ?", (process.instance,)
        ).fetchone()
        if not sound:
            raise self._mend()
        return bytes(spec)

    def update_process(self, process: Process) -> None:
        """Record its state, pid and exit."""
        self.update_processes([process])

    def update_processes(self, processes: list[Process]) -> None:
        """Record the state, pid and exit of many at once."""
        if not processes:
            return
        with self._transaction():
            for process in processes:
                self._run(
                    "UPDATE processes SET state = ?, pid = ?, start_time = ?, pumped = ?, exit_status = ?,"
                    " exited_at = ? WHERE instance = ?",
                    (
                        process.state,
                        process.pid,
                        process.start_time,
                        process.pumped,
                        process.exit.status if process.exit else None,
                        process.exit.at if process.exit else None,
                        process.instance,
                    ),
                )

    def remove_process(self, process: Process) -> None:
        """Forget an exec."""
        self._run("DELETE FROM processes WHERE instance = ?", (process.instance,))

    def add_prepared(self, namespace: str, prepared: Prepared) -> None:
        """Record a preparation."""
        stdio = prepared.stdio
        self._run(
            "INSERT INTO prepared VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, crc32(?5, ?6))",
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
            f"SELECT {rows.PREPARED} FROM prepared WHERE namespace = ? AND container_id = ? AND exec_id = ?",
            (namespace, container_id, exec_id),
        ).fetchone()
        return rows.prepared(*row) if row else None

    def all_prepared(self, namespace: str, sandbox_id: str) -> list[Prepared]:
        """All preparations of a sandbox."""
        found = self._run(
            f"SELECT {rows.PREPARED} FROM prepared WHERE namespace = ? AND sandbox_id = ?", (namespace, sandbox_id)
        )
        return [rows.prepared(*row) for row in found.fetchall()]

    def remove_prepared(self, namespace: str, prepared: Prepared) -> None:
        """Forget a preparation."""
        self._run(
            "DELETE FROM prepared WHERE namespace = ? AND container_id = ? AND exec_id = ?",
            (namespace, prepared.container_id, prepared.exec_id),
        )

    def _insert_process(self, container: Container, process: Process, spec: bytes = b"") -> None:
        stdio = process.stdio
        cursor = self._run(
            "INSERT INTO processes (namespace, container_id, exec_id, state, pid, start_time, stdin, stdout, stderr,"
            " terminal, spec, pumped, checksum) VALUES (?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?, 0, crc32(?9))",
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


def _failure(path: str, error: Exception) -> StoreFailed:
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    else:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL  # the rest of it tells more closely
    ails = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
    hint = ": is its disk read-only, full or failing?" if ails else ""
    return (StoreFull if full else StoreFailed)(f"{path}: {error}{hint}")
