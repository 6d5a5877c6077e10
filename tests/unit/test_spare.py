"""A damaged state file is set aside, said, and made anew from its spare: nothing of what was answered is lost."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sandbox_api.interface import NewSandbox, Stdio
from supervisor.model.container import Container
from supervisor.model.process import Process, ProcessState
from supervisor.state import spare
from supervisor.state.store import Recorded, Store, StoreMended

from .disk import disk
from .test_store import PLAN, check, fill, in_a_process_that_is_killed, sandbox

PAGE = 4096
MANY = 12
LONG = [bytes([65 + number]) * 9000 for number in range(MANY)]
"""Configurations that no page holds whole."""


def container(number: int) -> Container:
    return Container("many", f"c{number}", "pod", f"/bundles/{number}", Process(0, f"c{number}", "", Stdio()))


def fill_more(store: Store) -> None:
    fill(store)
    for number, config in enumerate(LONG):
        made = container(number)
        store.add_container(made, Recorded(config, PLAN), "")
        store.update_container(made)
        made.init.state, made.init.pid = ProcessState.RUNNING, 1000 + number
        store.update_process(made.init)


def check_more(store: Store) -> None:
    """All of ``fill_more`` is there."""
    check(store)
    assert read_all(store) == LONG
    found = {made.id: made for made, _, _ in store.containers() if made.namespace == "many"}
    assert {name: made.init.pid for name, made in found.items()} == {f"c{n}": 1000 + n for n in range(MANY)}


def read_all(store: Store) -> list[bytes]:
    return [store.recorded(container(number)).config for number in range(MANY)]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a supervisor leaves that was killed, all in the state file itself."""
    folder = tmp_path_factory.mktemp("left")
    in_a_process_that_is_killed(lambda: fill_more(Store(str(folder / "state.db"))))
    with closing(sqlite3.connect(folder / "state.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@pytest.fixture
def folder(left: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(left, tmp_path / "dir")
    return tmp_path / "dir"


def opened(folder: Path) -> Store:
    return Store(str(folder / "state.db"))


def set_aside(folder: Path) -> list[Path]:
    return [path for path in folder.glob("state.db.unfit-*") if not path.name.endswith("-wal")]


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def garbage_behind_a_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + os.urandom(50_000))


def text(path: Path) -> None:
    path.write_bytes(b"this is no database, " * 500)


def another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE mine (a); PRAGMA user_version = 2;")


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage", [truncated, emptied, garbage, garbage_behind_a_header, text, another_database, removed]
)
def test_a_damaged_file_is_made_anew(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    damage(folder / "state.db")
    left = (folder / "state.db").read_bytes() if damage in (truncated, garbage, text) else None
    with caplog.at_level(logging.ERROR):
        store = opened(folder)
    check_more(store)
    (aside,) = set_aside(folder)
    assert left is None or aside.read_bytes() == left
    (said,) = caplog.messages
    assert f"state.db cannot be used ({said.partition('(')[2]}" in said
    assert "made anew from its spare" in said
    assert (folder / "state.db").stat().st_mode & 0o777 == 0o600
    store.add_sandbox(sandbox("new"), NewSandbox("new"))
    store.close()
    store = opened(folder)
    check_more(store)
    assert len(list(store.sandboxes())) == 2
    store.close()
    assert set_aside(folder) == [aside]


@pytest.mark.parametrize("content", [b"\0", b"\xff", b"\0\0\0\5garbage"])
def test_whichever_page_is_damaged(left: Path, tmp_path: Path, content: bytes) -> None:
    pages = (left / "state.db").stat().st_size // PAGE
    mended = 0
    for page in range(pages):
        folder = tmp_path / str(page)
        shutil.copytree(left, folder)
        with (folder / "state.db").open("r+b") as file:
            file.seek(page * PAGE)
            file.write((content * PAGE)[:PAGE])
        store = opened(folder)
        check_more(store)
        mended += bool(set_aside(folder))
        store.close()
    assert mended > pages * 0.8  # the others held nothing


def test_a_file_that_lost_its_journal_is_made_anew(tmp_path: Path) -> None:
    """SQLite alone would take it for an older state, and nothing would be wrong with it."""
    before = tmp_path / "before"

    def work() -> None:
        store = opened(tmp_path)
        store.add_sandbox(sandbox("first"), NewSandbox("first"))
        store.close()
        shutil.copyfile(tmp_path / "state.db", before)
        fill_more(opened(tmp_path))

    in_a_process_that_is_killed(work)
    for name in ("state.db-wal", "state.db-shm"):
        (tmp_path / name).unlink()
    shutil.copyfile(before, tmp_path / "state.db")
    store = opened(tmp_path)
    check_more(store)
    assert len(list(store.sandboxes())) == 2
    store.close()


def test_a_sound_file_is_not_touched_whatever_its_spare_is(left: Path, tmp_path: Path) -> None:
    for number, damage in enumerate((truncated, emptied, garbage, text, removed)):
        for which in ("*.db", "*.log", "*"):
            folder = tmp_path / f"{number}{which.strip('*.')}"
            shutil.copytree(left, folder)
            for path in (folder / "spare").glob(which):
                damage(path)
            store = opened(folder)
            check_more(store)
            assert not set_aside(folder)
            store.close()
            garbage(folder / "state.db")  # and now there is a sound spare again
            store = opened(folder)
            check_more(store)
            store.close()


def test_a_log_that_ends_in_the_middle_of_a_line(folder: Path) -> None:
    """A supervisor that is killed in the middle of it has told nobody of that transaction."""
    (log,) = (folder / "spare").glob("*.log")
    with log.open("ab") as file:
        file.write(log.read_bytes().splitlines(keepends=True)[-1][:-20])
    garbage(folder / "state.db")
    store = opened(folder)
    check_more(store)
    store.close()


def test_without_a_spare_it_is_begun_anew(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    garbage(folder / "state.db")
    for path in (folder / "spare").iterdir():
        garbage(path)
    store = opened(folder)
    assert "there is no spare" in caplog.text
    assert list(store.sandboxes()) == []
    fill_more(store)
    store.close()
    store = opened(folder)
    check_more(store)
    store.close()
    assert len(set_aside(folder)) == 1


def test_a_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "LEAST_LOG", 1 << 16)

    def work() -> None:
        store = opened(tmp_path)
        fill_more(store)
        for _ in range(2000):
            store.update_sandbox(sandbox("other"))

    in_a_process_that_is_killed(work)
    size = (tmp_path / "state.db").stat().st_size + (tmp_path / "state.db-wal").stat().st_size
    assert sum(path.stat().st_size for path in (tmp_path / "spare").iterdir()) < 2 * size
    assert len(list((tmp_path / "spare").iterdir())) == 2
    garbage(tmp_path / "state.db")
    garbage(tmp_path / "state.db-wal")
    store = opened(tmp_path)
    check_more(store)
    store.close()


def test_a_spare_that_cannot_be_written_fails_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "RETRY_SECONDS", 0.0)
    with disk(tmp_path / "disk") as small:
        store = Store(f"{small.folder}/state.db")
        fill(store)
        folder = small.folder / "spare"
        folder.rename(small.folder / "away")
        folder.write_text("in its place")
        monkeypatch.setattr(store._spare, "_most", 0)  # it is time for a new pair, and that cannot be made
        store.add_sandbox(sandbox("one"), NewSandbox("one"))
        store.add_sandbox(sandbox("two"), NewSandbox("two"))
        folder.unlink()
        store.add_sandbox(sandbox("three"), NewSandbox("three"))
        assert len(list(folder.iterdir())) == 2
        store.close()
        garbage(small.folder / "state.db")
        store = Store(f"{small.folder}/state.db")
        assert {each.id for each in store.sandboxes()} == {"pod", "one", "two", "three"}
        store.close()


def test_no_room_to_make_it_anew_changes_nothing(tmp_path: Path, folder: Path) -> None:
    with disk(tmp_path / "disk") as small:
        shutil.copytree(folder, small.folder / "dir")
        truncated(small.folder / "dir" / "state.db")
        with small.full(), pytest.raises(Exception, match=r"state\.db: (disk I/O error|.*full)"):
            opened(small.folder / "dir")
        assert not set_aside(small.folder / "dir")
        store = opened(small.folder / "dir")
        check_more(store)
        store.close()


def test_damage_that_shows_while_it_runs_is_mended(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill_more(store)
    big = Container("many", "big", "pod", "/big", Process(0, "big", "", Stdio()))
    store.add_container(big, Recorded(bytes(4 << 20), PLAN), "")  # more than is held in memory
    store.close()
    store = opened(tmp_path)
    store.recorded(big)
    with (tmp_path / "state.db").open("r+b") as file:
        for page in range(1, (tmp_path / "state.db").stat().st_size // PAGE):
            file.seek(page * PAGE)
            file.write(b"\0\0\0\5garbage"[:8] * (PAGE // 8))
    with pytest.raises(StoreMended, match="damaged, and is made anew: try again"):
        read_all(store)
    assert read_all(store) == LONG
    made = container(0)
    made.init.instance = next(each.init.instance for each, _, _ in store.containers() if each.id == "c0")
    store.update_process(made.init)
    store.close()
