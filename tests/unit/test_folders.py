"""Folders are removed with nothing that is mounted in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from supervisor.host import folders, linux

from .leaks import nothing_left_open


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A folder of the user's, mounted in one of ours."""
    theirs, place = tmp_path / "theirs", tmp_path / "ours" / "root"
    theirs.mkdir()
    (theirs / "file").write_text("kept")
    place.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(theirs), str(place)], check=True)
    return place


def test_a_folder_that_is_mounted_in_it_stays_whole(tmp_path: Path, mounted: Path) -> None:
    folders.remove(str(tmp_path / "ours"))
    assert not (tmp_path / "ours").exists()
    assert (tmp_path / "theirs/file").read_text() == "kept"


def test_where_it_cannot_be_unmounted_nothing_is_removed(
    tmp_path: Path, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise PermissionError

    with monkeypatch.context() as changed:
        changed.setattr(linux, "detach", refuse)
        folders.remove(str(tmp_path / "ours"))
    assert (tmp_path / "theirs/file").read_text() == "kept"
    linux.detach(str(mounted))


def test_a_tree_of_any_depth_and_width_is_removed(tmp_path: Path) -> None:
    """Deeper than Python's recursion, with fewer descriptors than it has levels; links are removed, not followed."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder in (theirs, ours):
        folder.mkdir()
    (theirs / "file").write_text("kept")
    for branch in range(2):
        at = os.open(ours, os.O_RDONLY)
        for level in range(1200):
            os.mkdir(name := f"{branch}", dir_fd=at)
            if level % 500 == 0:
                os.symlink(theirs, f"link{branch}", dir_fd=at)
                os.close(os.open(f"file{branch}", os.O_CREAT | os.O_WRONLY, dir_fd=at))
            inside = os.open(name, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = inside
        os.close(at)
    with nothing_left_open():
        folders.remove_tree(str(ours))
    assert not ours.exists()
    assert (theirs / "file").read_text() == "kept"
    folders.remove_tree(str(ours))  # what is not there is removed


def test_what_is_mounted_in_a_tree_stays(tmp_path: Path, mounted: Path) -> None:
    (tmp_path / "ours" / "other" / "deep").mkdir(parents=True)
    folders.remove_tree(str(tmp_path / "ours"))
    assert (mounted / "file").read_text() == "kept"
    assert [each.name for each in (tmp_path / "ours").iterdir()] == ["root"]
    linux.detach(str(mounted))
