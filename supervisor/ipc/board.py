"""Calls under way on kept connections, in memory that outlives us: the relay holds it, and never looks at it.

A message to the relay for the begin and the end of each call would wake it twice; this costs two stores.
"""

from __future__ import annotations

import mmap
import os
import resource

_PLACES = 4
_WORDS = 2 * _PLACES
_NAME_BYTES = 8


class Board:
    """For each kept connection, by its number, a few places: each a call's stream and the first letters of its name."""

    def __init__(self, fd: int = -1) -> None:
        """Go on with one that is there, or make one. The descriptor is the board's."""
        if fd < 0:
            fd = os.memfd_create("calls", os.MFD_CLOEXEC)
            # As many as there can be connections. What is never written to takes no memory.
            os.ftruncate(fd, 8 * _WORDS * (resource.getrlimit(resource.RLIMIT_NOFILE)[0] + 1))
        self.fd = fd
        self._map = mmap.mmap(fd, 0)
        self._words = memoryview(self._map).cast("Q")
        self._numbers = {"": 0}

    def begin(self, key: int, stream: int, method: str) -> int:
        """A call has begun: the place to say that it has ended; 0 where there is none left."""
        words = self._words
        first = key * _WORDS
        if first + _WORDS > len(words):
            return 0
        for place in range(first, first + _WORDS, 2):
            if not words[place]:
                words[place + 1] = self._number(method)
                words[place] = stream  # odd, and so never 0; this counts, should we die in between
                return place
        return 0

    def end(self, place: int) -> None:
        """The call at this place has been answered."""
        self._words[place] = 0

    def clear(self, key: int) -> None:
        """Begin with a connection of this number."""
        first = key * _WORDS
        if first + _WORDS <= len(self._words):
            for place in range(first, first + _WORDS, 2):
                self._words[place] = 0

    def calls(self, key: int) -> list[tuple[int, str]]:
        """What is under way on a connection: streams and methods."""
        words = self._words
        first = key * _WORDS
        if first + _WORDS > len(words):
            return []
        return [(words[at], _name(words[at + 1])) for at in range(first, first + _WORDS, 2) if words[at]]

    def close(self) -> None:
        """Let go of it."""
        self._words.release()
        self._map.close()
        os.close(self.fd)

    def _number(self, method: str) -> int:
        number = self._numbers.get(method)
        if number is None:
            number = self._numbers[method] = int.from_bytes(method.encode()[:_NAME_BYTES], "little")
        return number


def _name(number: int) -> str:
    return number.to_bytes(_NAME_BYTES, "little").rstrip(b"\0").decode(errors="replace")
