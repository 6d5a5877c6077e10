"""Frames between supervisor and helpers: any bytes with any descriptors, in any pieces.

They are frames, each with the descriptors that it announced, or ``ProtocolError``; and no descriptor is ever lost.
"""

from __future__ import annotations

import _socket
import array
import os
from collections.abc import Iterator

from workers import protocol

WORDS = (b"\0\0\0\0\2\0\0\0", b"\4\0\0\0\2\0\1\0", b"\0\0\x80\0", b"\xff\xff\xff\xff")
MOST = 65536

_null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def run(data: bytes) -> None:
    """The last byte says how the rest is cut, and how many descriptors come with each piece."""
    script, data = (data[-1], data[:-1]) if data else (0, b"")
    ours, theirs = _socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    reader = protocol.Reader(ours)
    taken: list[protocol.Frame] = []
    announced = 0
    try:
        for piece, fds in _pieces(data, script):
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                assert theirs.sendmsg([piece], rights) == len(piece)
            except BlockingIOError:
                break
            reader.receive()
            for frame in reader.frames():
                taken.append(frame)
                announced += len(frame.fds)
                assert len(frame.body) <= protocol.MAX_BODY
    except (protocol.ProtocolError, BlockingIOError):
        pass
    finally:
        for frame in taken:
            frame.close()
        reader.close()
        theirs.close()
    _sent_again(taken)


def _pieces(data: bytes, script: int) -> Iterator[tuple[bytes, list[int]]]:
    if script & 0xC0 == 0:  # frames as they should be, but for one of them
        yield from _framed(data, script)
        return
    step = 1 + len(data) * (1 + script % 8) // 8
    for i in range(0, len(data), step):
        yield data[i : i + step], [_null] * (script >> 3 & 3)


def _framed(data: bytes, script: int) -> Iterator[tuple[bytes, list[int]]]:
    """Each frame with as many descriptors as it says, cut in two."""
    at = 0
    while len(data) - at >= 8:
        length, count = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 6 : at + 8], "little")
        end = min(at + 8 + length, len(data))
        middle = at + 1 + (end - at - 1) * (script & 7) // 8
        yield data[at:middle], [_null] * min(count, protocol.MAX_FDS)
        if middle < end:
            yield data[middle:end], []
        at = end


def _sent_again(frames: list[protocol.Frame]) -> None:
    for frame in frames:
        data, rights = protocol.encode(frame.kind, frame.body)
        assert not rights
        assert data[8:] == frame.body
