"""Folders are removed with nothing that is mounted in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from supervisor.host import folders, linux


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
