"""The journal of calls that are pending on kept connections. The relay holds its file for the next supervisor.

A message to the relay for the begin and the end of each call would wake it twice; this costs two small writes to
memory. A record is a header of four numbers (room in bytes, connection, stream, length of the request; a length of 0
is a free record) and the request. Records are written so that a death in between leaves none or a whole one.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import defaultdict
from dataclasses import dataclass

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<4I")
_ROOM = 64  # a record's room is a multiple of this, so that no header lies across two pages
_MAGIC = b"calls, version 2".ljust(_ROOM, b"\0")
_EMPTIED = 1 << 20  # a larger file is cut when nothing is pending


@dataclass(frozen=True, slots=True)
class Pending:
    """A call that an earlier supervisor had under way."""

    place: int
    """Place of its record in the journal."""
    stream: int
    request: bytes


class Journal:
    """Pending calls, each with its connection's number, its stream and its request."""

    def __init__(self, fd: int = -1) -> None:
        """Continue the journal in ``fd``, or make one. The descriptor is the journal's. Raises ``OSError``."""
        if fd < 0:
            fd = os.memfd_create("calls", os.MFD_CLOEXEC)
            os.write(fd, _MAGIC)
        self.fd = fd
        self._end = _ROOM
        self._count = 0
        self._free: dict[int, list[int]] = defaultdict(list)  # places by their room

    def pending(self) -> dict[int, list[Pending]]:
        """The calls in a journal that an earlier supervisor wrote, by connection."""
        found: dict[int, list[Pending]] = defaultdict(list)
        if os.pread(self.fd, _ROOM, 0) != _MAGIC:
            log.error("the journal of pending calls is of another version: those calls are lost")
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, _MAGIC, 0)
        size = os.fstat(self.fd).st_size
        while self._end + _HEADER.size <= size:
            at = self._end
            room, connection, stream, length = _HEADER.unpack(os.pread(self.fd, _HEADER.size, at))
            if not room or room % _ROOM or length > room - _HEADER.size:
                break
            self._end += room
            if length:
                request = os.pread(self.fd, length, at + _HEADER.size)
                found[connection].append(Pending(at, stream, request))
                self._count += 1
            else:
                self._free[room].append(at)
        os.ftruncate(self.fd, self._end)  # what a death left half-written
        return found

    def begin(self, connection: int, stream: int, request: bytes) -> int:
        """Record a call; the place to ``end`` it at, never 0. Raises ``OSError`` where there is no memory for it."""
        room = -(-(_HEADER.size + len(request)) // _ROOM) * _ROOM
        free = self._free[room]
        at = free[-1] if free else self._end
        header = _HEADER.pack(room, connection, stream, len(request))
        if len(header) + len(request) <= _ROOM:
            self._write(header + request, at)
        else:
            self._write(request, at + _HEADER.size)
            self._write(header, at)
        if free:
            free.pop()
        else:
            self._end += room
        self._count += 1
        return at

    def end(self, place: int) -> None:
        """Forget a call: it has been answered, or its client is gone."""
        room, *_ = _HEADER.unpack(os.pread(self.fd, _HEADER.size, place))
        os.pwrite(self.fd, _HEADER.pack(room, 0, 0, 0), place)
        self._free[room].append(place)
        self._count -= 1
        if not self._count and self._end > _EMPTIED:
            os.ftruncate(self.fd, _ROOM)
            self._end = _ROOM
            self._free.clear()

    def close(self) -> None:
        """Close our descriptor."""
        os.close(self.fd)

    def _write(self, data: bytes, at: int) -> None:
        written = os.pwrite(self.fd, data, at)
        if written < len(data):  # memory ran out in the middle: the rest raises
            os.pwrite(self.fd, data[written:], at + written)
