"""State on disk: one SQLite file, written before an answer leaves.

Safe against the death of any process, not of the machine (no fsync): a reboot ends the instances anyway.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from enum import IntEnum
from typing import Any

from sandbox_api.errors import Internal, NotFound, OutOfDisk, Unavailable
from sandbox_api.interface import NewContainer, NewExec, NewSandbox

from ..host.counters import Counters
from ..model.container import Container
from ..model.prepared import Prepared
from ..model.process import Process
from ..model.sandbox import Sandbox
from ..oci.rootfs import MountPlan
from . import file as state_file
from . import rows, schema


@dataclass(frozen=True, slots=True)
class Recorded:
    """The config and plan that a container was made from; kept here only, since a node has many."""

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


class StoreFull(OutOfDisk, StoreFailed):
    """There is no room on the disk."""


class StoreDamaged(Unavailable, StoreFailed):
    """The state file is damaged and was set aside: the sandboxer has to begin again without it."""


class Store:
    """The state file. Every method is one transaction, and raises ``StoreFailed`` where the disk refuses."""

    def __init__(
        self, path: str, on_damage: Callable[[], None] = lambda: None, counters: Counters | None = None
    ) -> None:
        """Open the file, or make it where there is none or it is damaged.

        ``on_damage`` is called once where damage shows later: every call fails from then on.
        Raises ``StoreFailed`` where the disk refuses, and ``state_file.Foreign``.
        """
        self._path = path
        self._transactions = (counters or Counters()).transactions
        self._on_damage = on_damage
        self._damaged = False
        self._in_transaction = False
        try:
            self._db, self.new = state_file.open_or_begin(path)
        except (sqlite3.Error, OSError) as error:
            raise _failure(path, error) from None

    def _failed(self, error: sqlite3.Error) -> StoreFailed:
        damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        return self._give_up(str(error)) if damaged else _failure(self._path, error)

    def _give_up(self, fault: str) -> StoreFailed:
        if not self._damaged:
            try:
                state_file.set_aside(self._path, fault)
            except OSError as error:
                return _failure(self._path, error)
            self._damaged = True
            self._on_damage()
        return StoreDamaged(f"{self._path} is damaged: the sandboxer begins again without it")

    def _run(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a statement, in the transaction that is under way or in one of its own."""
        if self._damaged:
            raise self._give_up("")
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            if self._in_transaction:
                raise
            raise self._failed(error) from None

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows that a query finds."""
        cursor = self._run(sql, values)
        try:
            return cursor.fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._in_transaction = True
        try:
            with self._transactions.time():
                self._run("BEGIN IMMEDIATE")
                yield
                self._run("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._db.rollback()
            if isinstance(error, sqlite3.Error):
                raise self._failed(error) from None
            raise
        finally:
            self._in_transaction = False

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Values that were not written like this are damage, too."""
        try:
            yield
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise self._give_up(f"{type(error).__name__}: {error}") from None

    def found_damaged(self, fault: str) -> StoreFailed:
        """Set the file aside for a fault that a reader of its values found; the error to raise."""
        return self._give_up(fault)

    def number_from(self, instance: int) -> None:
        """Give no instance a number below this."""
        with self._transaction():
            self._run("DELETE FROM sqlite_sequence WHERE name = 'processes'")
            self._run("INSERT INTO sqlite_sequence VALUES ('processes', ?)", (instance - 1,))

    @property
    def last_instance(self) -> int:
        """The highest number that an instance was given; 0 where there was none."""
        found = self._read("SELECT seq FROM sqlite_sequence WHERE name = 'processes'")
        return int(found[0][0]) if found else 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_sandbox(self, sandbox: Sandbox, new: NewSandbox) -> None:
        """Record a new sandbox."""
        self._run(
            schema.ADD_SANDBOX,
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
                json.dumps(sandbox.pids),
            ),
        )

    def update_sandbox(self, sandbox: Sandbox) -> None:
        """Record its state, labels and pids."""
        self._run(
            "UPDATE sandboxes SET state = ?, labels = ?, exited_at = ?, pids = ? WHERE namespace = ? AND id = ?",
            (
                sandbox.state,
                json.dumps(sandbox.labels),
                sandbox.exited_at,
                json.dumps(sandbox.pids),
                sandbox.namespace,
                sandbox.id,
            ),
        )

    def remove_sandbox(self, sandbox: Sandbox) -> None:
        """Forget it. Its containers are removed before."""
        self._run("DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (sandbox.namespace, sandbox.id))

    def sandboxes(self) -> list[Sandbox]:
        """Every sandbox on record."""
        with self._decoding():
            return [rows.sandbox(row) for row in self._read(f"SELECT {rows.SANDBOX} FROM sandboxes")]

    def add_container(
        self, container: Container, recorded: Recorded, cgroup: str, made: Made = Made.UNFINISHED
    ) -> None:
        """Record a new container and its init process, which is given its instance number.

        ``cgroup`` is what its control group's state will be, "" where it gets none.
        """
        with self._transaction():
            self._run(
                schema.ADD_CONTAINER,
                (
                    container.namespace,
                    container.id,
                    container.sandbox_id,
                    container.bundle,
                    recorded.config,
                    json.dumps(recorded.plan, default=schema.members),
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
        """Read what the container was made from. Raises ``NotFound`` where it is not on record."""
        for config, plan in self._read(
            "SELECT config, plan FROM containers WHERE namespace = ? AND id = ?", (container.namespace, container.id)
        ):
            with self._decoding():
                rows.checked((config, plan), bytes, str)
                return Recorded(config, schema.plan_of(plan))
        raise NotFound(f"container {container.id}: it was deleted")

    def remove_container(self, container: Container) -> None:
        """Forget it and its processes."""
        key = (container.namespace, container.id)
        with self._transaction():
            self._run("DELETE FROM processes WHERE namespace = ? AND container_id = ?", key)
            self._run("DELETE FROM containers WHERE namespace = ? AND id = ?", key)

    def containers(self) -> list[tuple[Container, str, Made]]:
        """Every container on record with its processes; its control group's state ("": none); how far it was made."""
        processes: dict[tuple[str, str], dict[str, Process]] = {}
        with self._decoding():
            for row in self._read(f"SELECT {rows.PROCESS} FROM processes"):
                process = rows.process(row)
                processes.setdefault((row[0], row[1]), {})[process.exec_id] = process
            found = []
            for row in self._read("SELECT namespace, id, sandbox_id, bundle, cgroup, made FROM containers"):
                namespace, container_id, sandbox_id, bundle, cgroup, made = rows.checked(row, *[str] * 5, int)
                execs = processes[namespace, container_id]
                init = execs.pop("")
                container = Container(namespace, container_id, sandbox_id, bundle, init, execs=execs or None)
                found.append((container, cgroup, Made(made)))
            return found

    def add_process(self, container: Container, process: Process, spec: bytes) -> None:
        """Record an exec, which is given its instance number."""
        self._insert_process(container, process, spec)

    def exec_spec(self, process: Process) -> bytes:
        """The OCI process, as JSON, of an exec. Raises ``NotFound`` where it is not on record."""
        for (spec,) in self._read("SELECT spec FROM processes WHERE instance = ?", (process.instance,)):
            with self._decoding():
                rows.checked((spec,), bytes)
                return bytes(spec)
        raise NotFound(f"container {process.name}: it was deleted")

    def update_process(self, process: Process) -> None:
        """Record its state, pid and exit."""
        self.update_processes([process])

    def update_processes(self, processes: list[Process]) -> None:
        """Record the state, pid and exit of many at once."""
        if not processes:
            return
        # One statement is a transaction by itself.
        with self._transaction() if len(processes) > 1 else self._transactions.time():
            for process in processes:
                self._run(
                    "UPDATE processes SET state = ?, pid = ?, start_time = ?, pumped = ?, purged = ?, tier = ?,"
                    " exit_status = ?, exited_at = ? WHERE instance = ?",
                    (
                        process.state,
                        process.pid,
                        process.start_time,
                        process.pumped,
                        process.purged,
                        process.tier,
                        process.exit.status if process.exit else None,
                        process.exit.at if process.exit else None,
                        process.instance,
                    ),
                )

    def remove_process(self, process: Process) -> None:
        """Forget an exec."""
        self._run("DELETE FROM processes WHERE instance = ?", (process.instance,))

    def add_prepared(self, namespace: str, prepared: Prepared[Any]) -> None:
        """Record a preparation, in place of a spent one."""
        new = prepared.new
        rootfs = new.rootfs if isinstance(new, NewContainer) else ()
        self._run(
            schema.ADD_PREPARED,
            (
                namespace,
                prepared.sandbox_id,
                *prepared.key,
                new.spec,
                json.dumps([asdict(mount) for mount in rootfs]),
                *astuple(new.stdio),
                prepared.bundle,
                prepared.listed,
                prepared.digest,
            ),
        )

    def prepared_container(self, namespace: str, container_id: str) -> Prepared[NewContainer] | None:
        """The preparation of a container, if there is one that is not spent."""
        return self.prepared(namespace, container_id, "")

    def prepared_exec(self, namespace: str, container_id: str, exec_id: str) -> Prepared[NewExec] | None:
        """The preparation of an exec, if there is one that is not spent."""
        return self.prepared(namespace, container_id, exec_id)

    def prepared(self, namespace: str, container_id: str, exec_id: str) -> Prepared[Any] | None:
        """The preparation of either, if there is one that is not spent."""
        found = self._prepared("container_id = ? AND exec_id = ? AND bundle != ''", namespace, container_id, exec_id)
        return found[0] if found else None

    def all_prepared(self, namespace: str, sandbox_id: str) -> list[Prepared[Any]]:
        """All preparations of a sandbox, spent ones among them."""
        return self._prepared("sandbox_id = ?", namespace, sandbox_id)

    def _prepared(self, condition: str, *values: str) -> list[Prepared[Any]]:
        with self._decoding():
            found = self._read(
                f"SELECT {schema.PREPARED_COLUMNS} FROM prepared WHERE namespace = ? AND {condition}", values
            )
            return [schema.prepared_of(*row) for row in found]

    def remove_prepared(self, namespace: str, prepared: Prepared[Any]) -> None:
        """Forget a preparation."""
        self._run(
            "DELETE FROM prepared WHERE namespace = ? AND container_id = ? AND exec_id = ?", (namespace, *prepared.key)
        )

    def _insert_process(self, container: Container, process: Process, spec: bytes = b"") -> None:
        cursor = self._run(
            schema.ADD_PROCESS,
            (
                container.namespace,
                container.id,
                process.exec_id,
                process.state,
                *astuple(process.stdio),
                spec,
                process.pid,
                process.start_time,
                process.pumped,
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
