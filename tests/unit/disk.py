"""A small disk for a state file, which a test may fill up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.host import linux


class Disk:
    """A tmpfs of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Meanwhile nothing more fits on it."""
        with self._filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        try:
            yield
        finally:
            self._filler.unlink()


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A disk of 2 MiB, mounted there."""
    folder.mkdir()
    linux.mount("tmpfs", str(folder), "tmpfs", 0, "size=2m")
    try:
        yield Disk(folder)
    finally:
        linux.detach(str(folder))
