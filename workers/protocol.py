"""The control protocol between the supervisor and its two helpers: frames for both, messages of the forkserver's.

One Unix stream socket carries frames both ways. A frame is a header (body length, kind and number of
descriptors, little-endian) and a body of fields; its descriptors travel as SCM_RIGHTS with the frame's
first byte (unix(7)). Both ends are our own processes of one user; the decoder refuses what does not fit
all the same, so that a damaged stream ends in ``ProtocolError`` and never in a wrong request.
"""

from __future__ import annotations

import _socket  # the socket module imports enum and selectors, and every fork would carry them
import array
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_BODY = 8 << 20
MAX_FDS = 250  # SCM_MAX_FD is 253 (unix(7))

# supervisor to forkserver
HELLO, START, KILL, ACK, END, PING, PREPARE = 1, 2, 3, 4, 5, 6, 7
# forkserver to supervisor
WELCOME, FORKED, EXITED, KILLED, PONG, IMAGE = 16, 17, 18, 19, 20, 21

LOADED, READY, FAILED, REFUSED = b"L", b"R", b"F", b"X"
"""A worker's report is its pid, in 4 bytes; LOADED when the module is parsed and validated, since its own code, a start
section, may run from then on; and a verdict: about to run; set-up failed, why; module refused, why."""

UNLINKED = "cannot be linked"
"""Beginning of why a module is refused whose imports this engine lacks."""

CGROUP = "cgroup"
"""Beginning of why set-up failed where a control group could not be entered."""

OWN_PID = 0x5AFE0B1D
"""Stands in a seccomp filter where the worker puts its own pid; above every pid there is (proc_sys_kernel(5))."""

_HEADER = struct.Struct("<IHH")
_U32 = struct.Struct("<I")
TAG = struct.Struct("<HI")
"""Head of a tagged field: tag and length."""


class ProtocolError(Exception):
    """The peer sent bytes that are no frame of this protocol."""


class Frame:
    """One message: its kind, its body and the descriptors that came with it (owned by the frame)."""

    __slots__ = ("body", "fds", "kind", "lost")

    def __init__(self, kind: int, body: bytes, fds: list[int], lost: bool = False) -> None:
        self.kind = kind
        self.body = body
        self.fds = fds
        self.lost = lost
        """Its descriptors found no room in this process (open-file limit): there are none."""

    def close(self) -> None:
        """Close the descriptors that were not taken over."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def pack(fields: Sequence[bytes]) -> bytes:
    """A list of byte strings as one: their number, then length and bytes of each."""
    parts = [_U32.pack(len(fields))]
    for field in fields:
        parts.append(_U32.pack(len(field)))
        parts.append(field)
    return b"".join(parts)


def unpack(body: bytes) -> list[bytes]:
    """Unpack the byte strings that ``pack`` was given.

    Raises ``ProtocolError`` where the lengths do not add up.
    """
    if len(body) < 4:
        raise ProtocolError("body shorter than its field count")
    (count,) = _U32.unpack_from(body)
    if count > len(body) // 4:
        raise ProtocolError(f"{count} fields cannot be in {len(body)} bytes")
    fields = []
    at = 4
    for _ in range(count):
        if at + 4 > len(body):
            raise ProtocolError("body ends inside a field")
        (length,) = _U32.unpack_from(body, at)
        at += 4
        if at + length > len(body):
            raise ProtocolError("body ends inside a field")
        fields.append(body[at : at + length])
        at += length
    if at != len(body):
        raise ProtocolError("bytes left over after the last field")
    return fields


def pack_numbers(*numbers: int) -> bytes:
    """Signed 64-bit numbers, for the messages that hold nothing else."""
    return struct.pack(f"<{len(numbers)}q", *numbers)


def unpack_numbers(body: bytes) -> tuple[int, ...]:
    """Unpack the numbers that ``pack_numbers`` was given. Raises ``ProtocolError``."""
    if len(body) % 8:
        raise ProtocolError(f"{len(body)} bytes are not a row of numbers")
    return struct.unpack(f"<{len(body) // 8}q", body)


def first_numbers(body: bytes, count: int) -> tuple[int, ...]:
    """Unpack the first so many numbers: later versions may add others behind. Raises ``ProtocolError``."""
    numbers = unpack_numbers(body)
    if len(numbers) < count:
        raise ProtocolError(f"{len(numbers)} numbers came, and {count} are needed")
    return numbers[:count]


def pack_rows(width: int, numbers: Sequence[int]) -> bytes:
    """Rows of ``width`` numbers each, all behind one another."""
    return pack_numbers(width, *numbers)


def unpack_rows(body: bytes, width: int) -> list[tuple[int, ...]]:
    """Unpack the first ``width`` numbers of each row: a later version's rows may be longer.

    No body is no rows. Raises ``ProtocolError``.
    """
    theirs, *numbers = unpack_numbers(body) or (width,)
    if theirs < width or len(numbers) % theirs:
        raise ProtocolError(f"{len(numbers)} numbers are no rows of {theirs}, of which {width} are needed")
    return [tuple(numbers[i : i + width]) for i in range(0, len(numbers), theirs)]


def pack_tagged(fields: dict[int, bytes]) -> bytes:
    """Fields by their tags: each is its tag, its length and its bytes."""
    parts = []
    for tag, field in fields.items():
        parts.append(TAG.pack(tag, len(field)))
        parts.append(field)
    return b"".join(parts)


def unpack_tagged(body: bytes) -> dict[int, bytes]:
    """Unpack the fields that ``pack_tagged`` was given.

    Readers skip unknown tags, and have a default for absent ones. Raises ``ProtocolError`` where the lengths do not
    add up, or a tag comes twice.
    """
    fields: dict[int, bytes] = {}
    at, end = 0, len(body)
    while at < end:
        if end - at < TAG.size:
            raise ProtocolError("body ends inside a field's tag")
        tag, length = TAG.unpack_from(body, at)
        at += TAG.size + length
        if at > end:
            raise ProtocolError("body ends inside a field")
        if tag in fields:
            raise ProtocolError(f"field {tag} comes twice")
        fields[tag] = body[at - length : at]
    return fields


def unpack_report(report: bytes) -> tuple[int, bool, bytes]:
    """A worker's pid, or 0, whether its module is loaded, and its verdict, as far as they came."""
    loaded = report[4:5] == LOADED
    return int.from_bytes(report[:4], sys.byteorder), loaded, report[4 + loaded :]


def encode(kind: int, body: bytes, fds: Sequence[int] = ()) -> tuple[bytes, list[tuple[int, int, array.array[int]]]]:
    """A frame's bytes, and the ancillary data that belongs with the first of them (for ``sendmsg``)."""
    if len(body) > MAX_BODY or len(fds) > MAX_FDS:
        raise ProtocolError(f"a frame of {len(body)} bytes and {len(fds)} descriptors is too large to send")
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return _HEADER.pack(len(body), kind, len(fds)) + body, rights


def send(sock: _socket.socket, kind: int, body: bytes, fds: Sequence[int] = ()) -> None:
    """Send one frame on a blocking socket.

    Raises ``OSError`` when the peer is gone.
    """
    data, rights = encode(kind, body, fds)
    sent = sock.sendmsg([data], rights, _socket.MSG_NOSIGNAL)
    while sent < len(data):
        sent += sock.send(data[sent:], _socket.MSG_NOSIGNAL)


class Reader:
    """Cuts what arrives on a socket into frames, and gives each the descriptors that are its own."""

    __slots__ = ("_batches", "_buffer", "_sock")

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        # One for each frame that has any: they come with its first byte, and never with another's (unix(7)).
        self._batches: list[tuple[list[int], bool]] = []

    def receive(self) -> bool:
        """Read once from the socket; false at its end. Raises ``BlockingIOError`` where there is nothing."""
        space = _socket.CMSG_SPACE(MAX_FDS * 4)
        data, ancillary, flags, _ = self._sock.recvmsg(1 << 16, space, _socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, what, payload in ancillary:
            if level == _socket.SOL_SOCKET and what == _socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if flags & _socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            self._batches.append(([], True))
        elif fds:
            self._batches.append((list(fds), False))
        self._buffer += data
        return bool(data)

    def frames(self) -> Iterable[Frame]:
        """The whole frames read so far."""
        while len(self._buffer) >= _HEADER.size:
            length, kind, count = _HEADER.unpack_from(self._buffer)
            if length > MAX_BODY or count > MAX_FDS:
                raise ProtocolError(f"a frame of {length} bytes and {count} descriptors is too large")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            fds, lost = self._batches[0] if count and self._batches else ([], False)
            if len(fds) != count and not lost:
                raise ProtocolError(f"{count} descriptors announced, {len(fds)} came")
            if count:
                del self._batches[0]
            frame = Frame(kind, bytes(self._buffer[_HEADER.size : end]), fds, lost)
            del self._buffer[:end]
            yield frame
        if self._batches and not self._buffer:
            raise ProtocolError("descriptors came that no frame announced")

    def answer(self, kind: int, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame back. Raises ``OSError`` when the peer is gone."""
        send(self._sock, kind, body, fds)

    def close(self) -> None:
        """Close the socket and the descriptors of frames that never became whole."""
        for fds, _ in self._batches:
            for fd in fds:
                os.close(fd)
        self._batches.clear()
        self._sock.close()
