"""A small disk for a state file, which a test may fill up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from supervisor.host import linux

from ..harness.disk import full


class Disk:
    """A tmpfs of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def full(self) -> AbstractContextManager[None]:
        """Meanwhile nothing more fits on it."""
        return full(self.folder)


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A disk of 2 MiB, mounted there."""
    folder.mkdir()
    linux.mount("tmpfs", str(folder), "tmpfs", 0, "size=2m")
    try:
        yield Disk(folder)
    finally:
        linux.detach(str(folder))
