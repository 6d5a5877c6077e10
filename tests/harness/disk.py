"""A small disk that a test may fill up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Meanwhile nothing more fits on the disk that this folder is on, not even a byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass
    try:
        yield
    finally:
        filler.unlink()
