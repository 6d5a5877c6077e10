"""The state file across versions: forwards in one transaction with a copy kept, back while nothing new is used."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from supervisor.state import schema
from supervisor.state.file import Foreign
from supervisor.state.store import Store

from .test_store import check, container, fill

STEP = (
    "ALTER TABLE processes ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey';"
    " CREATE TABLE volumes (name TEXT PRIMARY KEY) WITHOUT ROWID;"
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


@contextmanager
def next_version(step: str = STEP) -> Iterator[None]:
    """This code as the next version will be, that has a column and a table more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "VERSION", schema.VERSION + 1)
        patch.setitem(schema._MIGRATIONS, schema.VERSION - 1, step)
        yield


def run(path: str, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(sql).fetchall()


def test_forwards_and_back_and_forwards_again(path: str) -> None:
    with closing(Store(path)) as store:
        fill(store)
    with next_version(), closing(Store(path)) as store:
        check(store)
        assert not store.new
    assert run(path, "PRAGMA user_version") == [(schema.VERSION + 1,)]
    run(path, "UPDATE processes SET colour = 'red' WHERE exec_id = ''")
    run(path, "INSERT INTO volumes VALUES ('v')")
    with closing(Store(path)) as store:  # back
        check(store)
        store.add_container(container("later"), *_recorded(store))
        ((first, _, _), *_) = store.containers()
        store.update_process(first.init)
    assert run(path, "PRAGMA user_version") == [(schema.VERSION + 1,)]
    with next_version(), closing(Store(path)) as store:
        assert {each.id for each, _, _ in store.containers()} >= {"c", "later"}
    colours = run(path, "SELECT container_id, colour FROM processes WHERE exec_id = '' ORDER BY container_id")
    assert colours == [("c", "red"), ("later", "grey")]
    assert run(path, "SELECT name FROM volumes") == [("v",)]


def _recorded(store: Store) -> tuple[object, str]:
    ((first, cgroup, _), *_) = store.containers()
    return store.recorded(first), cgroup


def test_the_file_is_kept_as_it_was(path: str) -> None:
    with closing(Store(path)) as store:
        fill(store)
    with next_version():
        Store(path).close()
        copy = Path(f"{path}.before-{schema.VERSION}")
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(Store(str(copy))) as store:
        check(store)
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        run(str(copy), "SELECT colour FROM processes")


def test_a_migration_that_fails_changes_nothing(path: str) -> None:
    with closing(Store(path)) as store:
        fill(store)
    step = f"{STEP} INSERT INTO volumes VALUES ('v'); INSERT INTO volumes VALUES ('v');"
    with next_version(step), pytest.raises(Foreign, match=r"could not be brought .*UNIQUE"):
        Store(path)
    assert run(path, "PRAGMA user_version") == [(schema.VERSION,)]
    assert run(path, "SELECT count(*) FROM sqlite_master WHERE name = 'volumes'") == [(0,)]
    with closing(Store(path)) as store:
        check(store)


def test_what_an_older_version_must_not_see_it_refuses_and_leaves(path: str) -> None:
    Store(path).close()
    with next_version():
        Store(path).close()
        run(path, f"UPDATE format SET oldest_reader = {schema.VERSION}")
        Store(path).close()
    later = schema.VERSION + 1
    with pytest.raises(Foreign, match=rf"is for version {later} and later, and this sandboxer is of {schema.VERSION}"):
        Store(path)
    assert run(path, "SELECT oldest_reader FROM format") == [(later,)]


@pytest.mark.parametrize("version", [1, 7])
def test_a_file_of_before_0_2_0_is_refused_and_left(path: str, version: int) -> None:
    run(path, f"PRAGMA user_version = {version}")
    with pytest.raises(Foreign, match=f"of version {version}, and this sandboxer reads {schema.OLDEST} and later"):
        Store(path)
    assert run(path, "PRAGMA user_version") == [(version,)]


def test_members_of_a_later_version_are_passed_over(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with closing(Store(path)) as store:
        fill(store)
    run(path, "UPDATE containers SET plan = json_set(plan, '$.later', 1, '$.binds[0].later', 2, '$.tmpfs[0].later', 3)")
    run(path, "UPDATE prepared SET rootfs = json_set(rootfs, '$[0].later', 4)")
    with caplog.at_level(logging.ERROR), closing(Store(path)) as store:
        check(store)
    assert not caplog.records
