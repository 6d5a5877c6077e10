"""ttrpc's frames: a header of ten bytes, big-endian, and a message (containerd/ttrpc, PROTOCOL.md)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

REQUEST, RESPONSE, DATA = 1, 2, 3
MAX_MESSAGE = 4 << 20

_HEADER = struct.Struct(">IIBB")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message and where it belongs. Streams of a client's are odd."""

    stream: int
    type: int
    flags: int
    message: bytes


class BrokenFrame(Exception):
    """The peer's bytes cannot be a frame; nothing after them can be read."""

    def __init__(self, stream: int, text: str) -> None:
        super().__init__(text)
        self.stream = stream


def encode(stream: int, kind: int, message: bytes) -> bytes:
    """The bytes of a frame without flags."""
    return _HEADER.pack(len(message), stream, kind, 0) + message


def whole(data: bytes) -> int:
    """Count the first bytes that are whole frames; all, where they are no frames."""
    at = 0
    while len(data) - at >= _HEADER.size:
        length, _, kind, _ = _HEADER.unpack_from(data, at)
        if length > MAX_MESSAGE or kind not in (REQUEST, RESPONSE, DATA):
            return len(data)
        if at + _HEADER.size + length > len(data):
            break
        at += _HEADER.size + length
    return at


def size(data: bytes | bytearray) -> int:
    """Count the bytes of the frame that begins here; 0 where its header is not whole."""
    return _HEADER.size + int(_HEADER.unpack_from(data)[0]) if len(data) >= _HEADER.size else 0


class Decoder:
    """Cuts a byte stream into frames. Holds at most one frame's worth of bytes that are not whole yet."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer: bytearray | None = None  # grows in place: a frame may come byte by byte

    @property
    def partial(self) -> bool:
        """Whether it holds the beginning of a frame."""
        return self._buffer is not None

    @property
    def missing(self) -> int:
        """How many bytes that frame lacks at least: of its header, or else all; 0 where it holds none."""
        if self._buffer is None:
            return 0
        return (size(self._buffer) or _HEADER.size) - len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes. Raises ``BrokenFrame``; feed nothing more after that."""
        buffer: bytes | bytearray = data
        if self._buffer is not None:
            self._buffer += data
            buffer = self._buffer
        at = 0
        try:
            while len(buffer) - at >= _HEADER.size:
                length, stream, kind, flags = _HEADER.unpack_from(buffer, at)
                if length > MAX_MESSAGE:
                    raise BrokenFrame(stream, f"a message of {length} bytes; {MAX_MESSAGE} is the most")
                if kind not in (REQUEST, RESPONSE, DATA):
                    raise BrokenFrame(stream, f"a frame of type {kind}; there are 1, 2 and 3")
                end = at + _HEADER.size + length
                if len(buffer) < end:
                    break
                frame = Frame(stream, kind, flags, bytes(buffer[at + _HEADER.size : end]))
                at = end
                yield frame
        finally:
            if at >= len(buffer):
                self._buffer = None
            elif at or self._buffer is None:
                self._buffer = bytearray(buffer[at:])
