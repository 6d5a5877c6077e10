"""What a server needs of whoever keeps its connections when it dies."""

from __future__ import annotations

from typing import Protocol

MIDWAY = 0
"""In place of a call's stream, of which none is 0: the connection is in the middle of a frame, in either direction.

Where the process dies then, nobody else can tell where the next frame begins: the connection has to be closed.
"""


class Keeper(Protocol):
    """Keeps connections open when this process dies: a client takes a lost one for the end of what it waits for."""

    def reserve(self, fd: int) -> int:
        """A number, which is not 0, for a connection that is to be kept."""

    def keep(self, key: int) -> None:
        """Keep it from now on. All that is under way on it is journaled by now: it would never be answered else."""

    def drop(self, key: int) -> None:
        """Keep a connection no longer: it is about to be closed, and its calls are ended."""

    def begin(self, key: int, stream: int, request: bytes) -> int:
        """Journal a call on a kept connection, or ``MIDWAY``; the place to ``end`` it at, or 0. Raises ``OSError``."""

    def end(self, place: int) -> None:
        """Forget what began there: it has been answered, or its client is gone."""
