"""The protocol of supervisor and compiler process: one frame there, one frame back (``protocol``)."""

from __future__ import annotations

from .protocol import ProtocolError, pack, pack_numbers, unpack, unpack_numbers

COMPILE, COMPILED = 48, 49
"""Kinds of frame. COMPILE is a ``Request``, with the module's descriptor. COMPILED is how it ended and why, with MADE
and a descriptor of the product."""

MADE, REFUSED, CRASHED, TIMED_OUT, NO_MEMORY, UNABLE = b"M", b"R", b"C", b"T", b"O", b"U"
"""How a compile ended. REFUSED: the compiler does not want the module. UNABLE: it is not the module's fault.
After MADE come a byte with the module's traits, and the most memory that it had, in KiB, in 8 bytes."""

STARTS = 1
"""Trait: the module has a start section, so that instantiating it runs code of the guest's."""
COMPONENT = 2
"""Trait: it is a component."""


class Request:
    """One compile."""

    __slots__ = ("engine", "filter", "idle", "level", "library", "memory", "milliseconds", "version", "workshop")

    def __init__(
        self,
        *,
        engine: bytes,
        version: bytes,
        library: bytes = b"",
        level: int,
        milliseconds: int,
        memory: int,
        idle: bool,
        workshop: bytes,
        filter: bytes,
    ) -> None:
        self.engine = engine
        """Its name."""
        self.version = version
        """The version it is for: another that has been installed meanwhile must not compile for it."""
        self.library = library
        """The engine's library, where that is not found by itself."""
        self.level = level
        """The engine's own number for how much it optimises."""
        self.milliseconds = milliseconds
        """Limit of processor time."""
        self.memory = memory
        """Bytes that may be mapped beside the libraries; a quarter of it is the most that may be written."""
        self.idle = idle
        """Use idle processors alone."""
        self.workshop = workshop
        """An empty folder to mount on, in a mount namespace of the process's own."""
        self.filter = filter
        """A seccomp program, or nothing."""

    def encode(self) -> bytes:
        """The body of a COMPILE frame."""
        numbers = pack_numbers(self.level, self.milliseconds, self.memory, int(self.idle))
        return pack([self.engine, self.version, self.library, numbers, self.workshop, self.filter])

    @classmethod
    def decode(cls, body: bytes) -> Request:
        """The request in a COMPILE frame's body. Raises ``ProtocolError``."""
        fields = unpack(body)
        if len(fields) != 6:
            raise ProtocolError(f"a compile request has 6 fields, not {len(fields)}")
        engine, version, library, packed, workshop, code = fields
        numbers = unpack_numbers(packed)
        if len(numbers) != 4:
            raise ProtocolError("a compile request's numbers do not fit")
        level, milliseconds, memory, idle = numbers
        return cls(
            engine=engine,
            version=version,
            library=library,
            level=level,
            milliseconds=milliseconds,
            memory=memory,
            idle=bool(idle),
            workshop=workshop,
            filter=code,
        )
