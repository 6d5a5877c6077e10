"""What is called once in a template, before its image is taken, and all that it can see."""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..start_request import Preopen, StartRequest

MOST = 64
"""Preopens of a container that can have an image."""


class Initialization:
    """An export, with arguments, environment and folders."""

    __slots__ = ("args", "env", "export", "folders", "preopens", "shown")

    def __init__(self, request: StartRequest, folders: list[int]) -> None:
        """Take it from a request whose ``folders`` these are here.

        It is shown them where all can only be read. Else it finds an empty folder in the place of each: the C library
        notes once what is open where.
        """
        self.shown = all(each.readonly for each in request.preopens)
        self.export = request.initialize
        self.args = request.args
        self.env = request.env
        self.preopens: list[Preopen] = request.preopens
        self.folders = folders if self.shown else []

    def key(self) -> object:
        """Tells it from all that might come to another end."""
        status = [posix.fstat(fd) for fd in self.folders]
        places = tuple((each.st_dev, each.st_ino, each.st_mtime_ns, each.st_ctime_ns) for each in status)
        return (self.export, tuple(self.args), tuple(self.env), tuple(each.path for each in self.preopens), places)

    def keep(self) -> None:
        """Have descriptors of our own. Raises ``OSError``."""
        kept: list[int] = []
        try:
            for fd in self.folders:
                kept.append(posix.dup(fd))
        except OSError:
            self.folders = kept
            self.close()
            raise
        self.folders = kept

    def close(self) -> None:
        """Close them."""
        for fd in self.folders:
            posix.close(fd)
        self.folders = []
