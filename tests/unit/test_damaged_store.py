"""A damaged state file is set aside, at the start or when the damage shows, and the next one begins empty."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.state.store import Store, StoreDamaged, StoreFailed

from .disk import disk
from .test_store import check, container, fill, sandbox

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file with something in it, all in one file."""
    path = tmp_path / "state.db"
    store = Store(str(path))
    fill(store)
    store.close()
    return path


def set_aside(path: Path) -> list[Path]:
    return [each for each in path.parent.glob("state.db.unfit-*") if not each.name.endswith("-wal")]


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def garbage_behind_a_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + os.urandom(50_000))


def text(path: Path) -> None:
    path.write_bytes(b"this is no database, " * 500)


@pytest.mark.parametrize("damage", [truncated, garbage, garbage_behind_a_header, text])
def test_a_damaged_file_is_set_aside_at_start(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(path)
    damaged = path.read_bytes()
    store = Store(str(path))
    assert store.new
    assert (store.sandboxes(), store.containers()) == ([], [])
    fill(store)
    check(store)
    store.close()
    (aside,) = set_aside(path)
    assert aside.read_bytes() == damaged
    assert f"{path} is damaged" in caplog.text
    assert aside.name in caplog.text
    store = Store(str(path))
    assert not store.new
    check(store)
    store.close()


@pytest.mark.parametrize("content", [bytes(PAGE), b"\0\0\0\5garbage"[:8] * (PAGE // 8)])
def test_any_damaged_page_is_set_aside_or_harmless(path: Path, content: bytes) -> None:
    whole = path.read_bytes()
    for page in range(len(whole) // PAGE):
        path.write_bytes(whole[: page * PAGE] + content + whole[(page + 1) * PAGE :])
        before = len(set_aside(path))
        store = Store(str(path))
        try:
            check(store)
        except (StoreDamaged, ValueError, AssertionError):  # the last two: it began empty
            assert len(set_aside(path)) == before + 1
        store.close()
        path.unlink(missing_ok=True)


def test_a_sound_file_is_not_set_aside(path: Path) -> None:
    store = Store(str(path))
    assert not store.new
    check(store)
    store.close()
    assert not set_aside(path)


def test_a_value_that_cannot_be_read_is_damage(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE containers SET plan = '{'")
    told: list[str] = []
    store = Store(str(path), lambda: told.append("damage"))
    with pytest.raises(StoreDamaged, match="is damaged"):
        store.recorded(container())
    with pytest.raises(StoreDamaged):
        store.remove_sandbox(sandbox())
    assert told == ["damage"]
    assert not path.exists()
    assert len(set_aside(path)) == 1
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "sandboxes SET labels = '5'",
        "sandboxes SET labels = '{\"a\": 1}'",
        "sandboxes SET pids = '[\"a\"]'",
        "sandboxes SET netns = x'00'",
        "sandboxes SET created_at = 'x'",
        "processes SET pid = 'x'",
        "processes SET exit_status = x'00'",
        "containers SET config = 1000000000000",  # bytes(config) took that much memory
        "containers SET plan = '[]'",
        "containers SET plan = replace(plan, '\"/', '5, \"')",
        "containers SET plan = json_set(plan, '$.root', 5)",
        "containers SET plan = json_set(plan, '$.masked', '/a')",
        'containers SET plan = json_set(plan, \'$.binds\', json(\'[{"destination": 1, "source": "/"}]\'))',
        "containers SET plan = '" + "[" * 100_000 + "'",
    ],
)
def test_values_of_another_kind_are_damage(path: Path, damage: str) -> None:
    """SQLite stores any value in any column: one was taken for what it is not, far from here."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE {damage}")
    store = Store(str(path))
    with pytest.raises(StoreDamaged, match="is damaged"):
        (store.sandboxes(), store.containers(), store.recorded(container()))
    assert len(set_aside(path)) == 1
    store.close()


@pytest.mark.parametrize(
    "damage", ["DELETE FROM boot", "DELETE FROM format", "UPDATE format SET oldest_reader = 'x'", "DROP TABLE format"]
)
def test_a_file_that_does_not_say_what_it_is_is_damaged(path: Path, damage: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(damage)
    store = Store(str(path))
    assert store.new
    assert len(set_aside(path)) == 1
    store.close()


def test_damage_that_shows_later_ends_the_store(path: Path) -> None:
    told: list[str] = []
    store = Store(str(path), lambda: told.append("damage"))
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // PAGE):
            file.seek(page * PAGE)
            file.write(os.urandom(PAGE))
    with closing(sqlite3.connect(path)) as db, db:  # so that the store reads pages again
        db.execute("PRAGMA application_id = 1")
    for _ in range(2):
        with pytest.raises(StoreFailed, match="is damaged"):
            store.remove_sandbox(sandbox())
    assert told == ["damage"]
    store.close()
    store = Store(str(path))
    assert store.new
    store.close()


def test_deleted_rows_are_no_damage(path: Path) -> None:
    from sandbox_api.errors import NotFound

    store = Store(str(path))
    with pytest.raises(NotFound, match="gone: it was deleted"):
        store.recorded(container("gone"))
    check(store)
    store.close()


def test_no_room_for_a_new_file_is_no_damage(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as small:
        path = small.folder / "state.db"
        path.write_bytes(b"no database" * 1000)
        with small.full(), pytest.raises(StoreFailed):
            Store(str(path))
        assert Store(str(path)).new


def test_instance_numbers_begin_where_they_are_told_to(path: Path) -> None:
    store = Store(str(path))
    store.number_from(1 << 40)
    made = container("c9")
    store.add_container(made, store.recorded(container()), "")
    assert made.init.instance == 1 << 40
    store.close()
