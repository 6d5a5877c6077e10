"""HELLO and WELCOME: the first messages between the supervisor and the forkserver.

Both say the lowest and the highest version of their protocol that they speak, and go on in the highest that both do.
They do so twice: for what starts instances, and for what is said of those that run. With one that has only the latter
in common, a forkserver keeps what it has and starts no more (docs/upgrading.md). The versions' fields have the same
tags and the same form in every version, so that each side can name the other's. A START's fields that a side does not
know it skips: one that must not be skipped raises the lowest version.
"""

from __future__ import annotations

from .protocol import (
    ProtocolError,
    first_numbers,
    pack,
    pack_numbers,
    pack_rows,
    pack_tagged,
    unpack,
    unpack_rows,
    unpack_tagged,
)

VERSIONS = 1
"""Tag of the versions, in both messages."""
KEEPING_VERSIONS = 100
"""Tag of the versions of the messages about what runs, in both messages."""
_KEEP = 101
"""Tag in a HELLO: start nothing more."""
_FILTERS = {
    2: "interpreted_without_network",
    3: "interpreted_with_network",
    4: "compiled_without_network",
    5: "compiled_with_network",
    6: "no_new_code",
    7: "names",
    9: "threaded_without_network",
    10: "threaded_with_network",
    11: "threaded_no_new_code",
}
"""Tags in a HELLO to the forkserver."""
_IMAGE_MEMORY = 8
"""Another: the bytes that images of loaded modules may take; none are made where it is absent."""
ENGINES, LANDLOCK, RUNNING, EXITS, NO_EMPTY_ROOT, IMAGES = 2, 3, 4, 5, 6, 7
"""Tags in a forkserver's WELCOME."""
EXIT_NUMBERS = 5
"""Numbers of an exit, as EXITED and WELCOME tell it: instance, pid, wait status, nanoseconds since the epoch, and the
forbidden system call that ended it or -1."""


class Versions:
    """The lowest and the highest version of a protocol that one side speaks."""

    __slots__ = ("highest", "lowest")

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest = lowest
        self.highest = highest

    def common(self, other: Versions) -> int:
        """The highest version that both speak; 0 where there is none."""
        highest = min(self.highest, other.highest)
        return highest if highest >= max(self.lowest, other.lowest) else 0

    def encode(self) -> bytes:
        """The field's bytes."""
        return pack_numbers(self.lowest, self.highest)

    @classmethod
    def decode(cls, field: bytes) -> Versions:
        """The versions in a field. Raises ``ProtocolError``."""
        lowest, highest = first_numbers(field, 2)
        if not 0 < lowest <= highest:
            raise ProtocolError(f"{lowest} and {highest} are no lowest and highest version")
        return cls(lowest, highest)

    def __str__(self) -> str:
        return f"{self.lowest}" if self.lowest == self.highest else f"{self.lowest} to {self.highest}"


FORKSERVER = Versions(8, 8)
"""Versions of the protocol with the forkserver that this code speaks."""
KEEPING = Versions(1, 1)
"""Versions of the messages about what runs (KILL, EXITED, ACK, PING, END and the greeting itself)."""


class Filters:
    """The seccomp programs that the forkserver is given once. Empty ones stand for no filter."""

    __slots__ = tuple(_FILTERS.values())

    def __init__(
        self,
        interpreted_without_network: bytes = b"",
        interpreted_with_network: bytes = b"",
        compiled_without_network: bytes = b"",
        compiled_with_network: bytes = b"",
        no_new_code: bytes = b"",
        names: bytes = b"",
        threaded_without_network: bytes = b"",
        threaded_with_network: bytes = b"",
        threaded_no_new_code: bytes = b"",
    ) -> None:
        self.interpreted_without_network = interpreted_without_network
        """An interpreted guest maps no machine code at all."""
        self.interpreted_with_network = interpreted_with_network
        self.compiled_without_network = compiled_without_network
        """A compiled module is mapped from its file; after that ``no_new_code`` is put on top."""
        self.compiled_with_network = compiled_with_network
        self.no_new_code = no_new_code
        """Forbids to map machine code from now on, and any further filter."""
        self.names = names
        """The names of all system calls by number, a line each."""
        self.threaded_without_network = threaded_without_network
        """As of a compiled guest, for engines that make threads."""
        self.threaded_with_network = threaded_with_network
        self.threaded_no_new_code = threaded_no_new_code


class Hello:
    """The supervisor's first message."""

    __slots__ = ("filters", "image_memory", "keep", "keeping", "versions")

    def __init__(
        self,
        versions: Versions,
        filters: Filters | None = None,
        image_memory: int = 0,
        keep: bool = False,
        keeping: Versions | None = KEEPING,
    ) -> None:
        self.versions = versions
        self.keeping = keeping
        """Versions of the messages about what runs; None where none are said, as before 0.2.0."""
        self.keep = keep
        """Nothing more is to be started: another forkserver does that."""
        self.filters = filters or Filters()
        self.image_memory = image_memory
        """Bytes that images of loaded modules may take together; 0 makes none."""

    def encode(self) -> bytes:
        """The body of a HELLO frame."""
        programs = {tag: getattr(self.filters, name) for tag, name in _FILTERS.items()}
        given = {tag: program for tag, program in programs.items() if program}
        if self.image_memory:
            given[_IMAGE_MEMORY] = pack_numbers(self.image_memory)
        if self.keep:
            given[_KEEP] = b""
        return pack_tagged({VERSIONS: self.versions.encode(), **_keeping(self.keeping), **given})

    @classmethod
    def decode(cls, body: bytes) -> Hello:
        """The message in a HELLO frame's body. Raises ``ProtocolError``."""
        fields = unpack_tagged(body)
        filters = Filters(*(fields.get(tag, b"") for tag in _FILTERS))
        (memory,) = first_numbers(fields.get(_IMAGE_MEMORY, pack_numbers(0)), 1)
        versions = Versions.decode(fields.get(VERSIONS, b""))
        return cls(versions, filters, memory, _KEEP in fields, _kept_by(fields))


class Welcome:
    """The forkserver's answer."""

    __slots__ = ("engines", "exits", "images", "keeping", "landlock", "no_empty_root", "running", "versions")

    def __init__(
        self,
        versions: Versions,
        engines: dict[bytes, bytes] | None = None,
        landlock: int = 0,
        running: list[int] | None = None,
        exits: list[int] | None = None,
        no_empty_root: int = 0,
        images: list[bytes] | None = None,
        keeping: Versions | None = KEEPING,
    ) -> None:
        self.versions = versions
        self.keeping = keeping
        """Versions of the messages about what runs; None where none are said, as before 0.2.0."""
        self.engines = engines or {}
        """The engines' versions by their names."""
        self.landlock = landlock
        """ABI of the kernel's Landlock; 0 is none."""
        self.no_empty_root = no_empty_root
        """The errno by which workers were refused an empty root; 0 where they have one."""
        self.running = running or []
        """Instance and pid of each worker."""
        self.exits = exits or []
        """The numbers of an EXITED frame for each exit that was not acknowledged."""
        self.images = images or []
        """The body of an IMAGE frame for each image, and for each module that there can be none of."""

    def encode(self) -> bytes:
        """The body of a WELCOME frame."""
        return pack_tagged(
            {
                VERSIONS: self.versions.encode(),
                **_keeping(self.keeping),
                ENGINES: pack([text for pair in self.engines.items() for text in pair]),
                LANDLOCK: pack_numbers(self.landlock),
                NO_EMPTY_ROOT: pack_numbers(self.no_empty_root),
                RUNNING: pack_rows(2, self.running),
                EXITS: pack_rows(EXIT_NUMBERS, self.exits),
                IMAGES: pack(self.images),
            }
        )

    @classmethod
    def decode(cls, body: bytes) -> Welcome:
        """The message in a WELCOME frame's body. Raises ``ProtocolError``."""
        fields = unpack_tagged(body)
        engines = unpack(fields.get(ENGINES, pack([])))
        (landlock,) = first_numbers(fields.get(LANDLOCK, pack_numbers(0)), 1)
        (no_empty_root,) = first_numbers(fields.get(NO_EMPTY_ROOT, pack_numbers(0)), 1)
        if len(engines) % 2:
            raise ProtocolError("a welcome's engines do not fit")
        return cls(
            Versions.decode(fields.get(VERSIONS, b"")),
            dict(zip(engines[::2], engines[1::2], strict=True)),
            landlock,
            [number for row in unpack_rows(fields.get(RUNNING, b""), 2) for number in row],
            [number for row in unpack_rows(fields.get(EXITS, b""), EXIT_NUMBERS) for number in row],
            no_empty_root,
            unpack(fields.get(IMAGES, pack([]))),
            _kept_by(fields),
        )


def _keeping(versions: Versions | None) -> dict[int, bytes]:
    return {} if versions is None else {KEEPING_VERSIONS: versions.encode()}


def _kept_by(fields: dict[int, bytes]) -> Versions | None:
    return Versions.decode(fields[KEEPING_VERSIONS]) if KEEPING_VERSIONS in fields else None
