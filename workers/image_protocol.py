"""PREPARE and IMAGE: the supervisor asks for an image of a loaded module, and the forkserver says what became of it."""

from __future__ import annotations

from .protocol import ProtocolError, pack, pack_numbers, unpack, unpack_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MADE, UNFIT, DROPPED = b"made", b"unfit", b"dropped"
"""States of an image: it is there; there can be none, for now; it was given up."""


class ImageRequest:
    """Key of an image. Its product's file travels with it."""

    __slots__ = ("digest", "engine", "function", "max_pages")

    def __init__(self, digest: bytes, engine: bytes, function: bytes, max_pages: int) -> None:
        self.digest = digest
        """The module's SHA-256 in hexadecimal: a name, for people."""
        self.engine = engine
        self.function = function
        self.max_pages = max_pages

    def encode(self) -> bytes:
        """The body of a PREPARE frame."""
        return pack([self.digest, self.engine, self.function, pack_numbers(self.max_pages)])

    @classmethod
    def decode(cls, body: bytes) -> ImageRequest:
        """The request in a PREPARE frame's body. Raises ``ProtocolError``."""
        fields = unpack(body)
        if len(fields) != 4:
            raise ProtocolError("a request for an image has four fields")
        digest, engine, function, numbers = fields
        (max_pages,) = _numbers(numbers, 1)
        if not 0 <= max_pages <= 65536:
            raise ProtocolError(f"{max_pages} pages are out of range")
        return cls(digest, engine, function, max_pages)


class ImageReport:
    """Outcome of making an image."""

    __slots__ = ("bytes", "digest", "mappings", "microseconds", "reason", "serial", "state")

    def __init__(
        self,
        state: bytes,
        serial: int,
        digest: bytes,
        size: int = 0,
        mappings: int = 0,
        microseconds: int = 0,
        reason: str = "",
    ) -> None:
        self.state = state
        self.serial = serial
        """Tells it from all others of its forkserver."""
        self.digest = digest
        self.bytes = size
        """How much memory it takes."""
        self.mappings = mappings
        """How many mappings it adds to a worker."""
        self.microseconds = microseconds
        """How long its making took."""
        self.reason = reason
        """Why there is none."""

    def encode(self) -> bytes:
        """The body of an IMAGE frame."""
        numbers = pack_numbers(self.serial, self.bytes, self.mappings, self.microseconds)
        return pack([self.state, self.digest, numbers, self.reason.encode(errors="replace")])

    @classmethod
    def decode(cls, body: bytes) -> ImageReport:
        """The report in an IMAGE frame's body. Raises ``ProtocolError``."""
        fields = unpack(body)
        if len(fields) != 4:
            raise ProtocolError("an image's report has four fields")
        state, digest, numbers, reason = fields
        serial, size, mappings, microseconds = _numbers(numbers, 4)
        return cls(state, serial, digest, size, mappings, microseconds, reason.decode(errors="replace"))


def _numbers(field: bytes, count: int) -> Sequence[int]:
    numbers = unpack_numbers(field)
    if len(numbers) != count:
        raise ProtocolError(f"a field of {count} numbers has {len(numbers)}")
    return numbers
