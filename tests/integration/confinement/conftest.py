"""Broken-out guests behind all walls, or behind some of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness.bare_forkserver import (
    WITHOUT_EMPTY_ROOT,
    Cells,
    shut,
)


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    """Both walls."""
    made = shut()
    yield made
    made.close()


@pytest.fixture(scope="module")
def landlocked() -> Iterator[Cells]:
    """Landlock alone, in the host's root."""
    made = Cells(under=WITHOUT_EMPTY_ROOT)
    assert made.no_empty_root
    yield made
    made.close()


@pytest.fixture(scope="module")
def without_seccomp() -> Iterator[Cells]:
    """Landlock in an empty root."""
    made = Cells()
    yield made
    made.close()


@pytest.fixture
def folders(tmp_path: Path) -> list[tuple[Path, bool]]:
    """A preopen to write in and one to read."""
    for name in ("rw", "ro"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "file").write_text("content")
    return [(tmp_path / "rw", False), (tmp_path / "ro", True)]
