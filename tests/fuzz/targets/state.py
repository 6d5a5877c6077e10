"""The state file: whatever its pages or rows hold, it is read as good values, or set aside as damaged.

An input is a file's bytes, or JSON with rows by table: strings of blobs are Latin-1, columns that are left out are "".
The tables ``boot`` and ``format``, which have a row in any file, have those of the input instead, where it names them.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sandbox_api.errors import NotFound
from supervisor.model.container import Container
from supervisor.oci.rootfs import MountPlan
from supervisor.state import file, schema
from supervisor.state.store import Store, StoreFailed

from ..json_mutation import mutator
from ..values import check, check_text

MOST = 65536
SINGLE = ("boot", "format")
BLOBS = frozenset({"config", "spec"})
KEYS = (
    *(
        "boot",
        "format",
        "oldest_reader",
        "sandboxes",
        "containers",
        "processes",
        "prepared",
        "namespace",
        "id",
        "state",
        "labels",
        "pids",
        "plan",
        "made",
    ),
    *("binds", "tmpfs", "rootfs", "exec_id", "container_id", "exit_status", "exited_at", "instance", "bundle", "pid"),
)
WORDS = (b"SQLite format 3\0", *(f'"{key}":'.encode() for key in KEYS))
_json = mutator(KEYS)

_BOOT_ID = "00000000-0000-0000-0000-000000000000"
"""That of the files in the tree."""


def mutate(data: bytes, most: int, seed: int) -> bytes:
    if data[:1] == b"{":
        return bytes(_json(data, most, seed))
    import atheris

    return bytes(atheris.Mutate(data, most))


def run(data: bytes) -> None:
    with (
        patch.object(schema, "_boot_id", lambda: _BOOT_ID),
        tempfile.TemporaryDirectory(prefix="fuzz-state-") as folder,
    ):
        path = Path(folder, "state.db")
        if data[:1] == b"{":
            shutil.copy(_empty(), path)
            _insert(path, data)
        else:
            path.write_bytes(data)
        damage: list[bool] = []
        try:
            store = Store(str(path), lambda: damage.append(True))
        except (StoreFailed, file.Foreign) as error:
            check_text(error)
            return
        try:
            _read(store)
        except StoreFailed:
            assert damage or data[:1] != b"{"  # a broken page may be found out as something else
        finally:
            store.close()


def _read(store: Store) -> None:
    found: list[Container] = []
    for sandbox in store.sandboxes():
        check((sandbox.namespace, sandbox.id, sandbox.netns, sandbox.created_at, sandbox.exited_at))
        assert all(isinstance(each, str) for pair in sandbox.labels.items() for each in pair)
        assert all(isinstance(pid, int) for pid in sandbox.pids)
        for prepared in store.all_prepared(sandbox.namespace, sandbox.id):
            check(prepared.new)
            store.prepared(sandbox.namespace, *prepared.key)
    for container, cgroup, _ in store.containers():
        found.append(container)
        assert isinstance(cgroup, str)
        for process in container.processes():
            check((process.name, process.exec_id, process.stdio, process.pid, process.start_time, process.exit))
    for container in found:
        recorded = store.recorded(container)
        assert isinstance(recorded.config, bytes)
        _check_plan(recorded.plan)
        for process in container.processes():
            with suppress(NotFound):
                assert isinstance(store.exec_spec(process), bytes)
    for container in found:
        store.update_processes(list(container.processes()))
        store.remove_container(container)


def _check_plan(plan: MountPlan) -> None:
    check(plan)
    assert isinstance(plan.root, str)
    assert all(isinstance(each, str) for each in (*plan.inner, *plan.masked, *plan.readonly, *plan.pod_files))
    assert all(isinstance(bind.source, str) and isinstance(bind.destination, str) for bind in plan.binds)
    assert all(isinstance(tmpfs.data, str) for tmpfs in plan.tmpfs)
    plan.empty, plan.tmpfs_path(0)


_made: list[Path] = []


def _empty() -> Path:
    """A file without rows."""
    if not _made:
        folder = tempfile.TemporaryDirectory(prefix="fuzz-state-")
        path = Path(folder.name, "empty.db")
        Store(str(path), lambda: None).close()
        _made.append(path)
        _folders.append(folder)  # removed as the process ends
    return _made[0]


_folders: list[Any] = []


def _insert(path: Path, data: bytes) -> None:
    try:
        tables = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(tables, dict):
        return
    db = sqlite3.connect(path, isolation_level=None)
    try:
        for table, rows in tables.items():
            with suppress(UnicodeError):
                columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
                if table in SINGLE and columns:
                    db.execute(f"DELETE FROM {table}")
                for row in rows if columns and isinstance(rows, list) else ():
                    if isinstance(row, dict):
                        values = [_value(name, row.get(name, "")) for name in columns]
                        with suppress(sqlite3.Error, OverflowError, UnicodeError):
                            db.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(values))})", values)
    finally:
        db.close()


def _value(column: str, value: Any) -> Any:
    if isinstance(value, str) and column in BLOBS:
        return value.encode("latin-1", errors="replace")
    return json.dumps(value) if isinstance(value, list | dict) else value
