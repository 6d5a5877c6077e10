"""Broken-out guests behind all walls, or behind some of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness.bare_forkserver import (
    WITHOUT_EMPTY_ROOT,
    BareForkserver,
    WasmtimeForkserver,
    confined,
)


@pytest.fixture(scope="module", params=["wasmedge", "wasmtime"])
def forkserver(request: pytest.FixtureRequest) -> Iterator[BareForkserver]:
    """Both walls, in a worker of each engine: Wasmtime's may have threads, and so another filter."""
    made = confined() if request.param == "wasmedge" else WasmtimeForkserver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def landlocked() -> Iterator[BareForkserver]:
    """Landlock alone, in the host's root."""
    made = BareForkserver(under=WITHOUT_EMPTY_ROOT)
    assert made.no_empty_root
    yield made
    made.close()


@pytest.fixture(scope="module")
def without_seccomp() -> Iterator[BareForkserver]:
    """Landlock in an empty root."""
    made = BareForkserver()
    yield made
    made.close()


@pytest.fixture
def folders(tmp_path: Path) -> list[tuple[Path, bool]]:
    """A preopen to write in and one to read."""
    for name in ("rw", "ro"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "file").write_text("content")
    return [(tmp_path / "rw", False), (tmp_path / "ro", True)]
