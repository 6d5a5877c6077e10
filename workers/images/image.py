"""An image: what loading a module changed in a process's memory, to be mapped in place of loading it."""

from __future__ import annotations

import posix

from .. import linux
from ..calls.call_list import NEGATIVE, NEGATIVE_LONG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..calls.call_list import CallList, Label

NOTHING, MEMORY, PRODUCT = range(3)
"""Sources of a segment: nothing (zeros), the image's memory file, the module's product."""


class Segment:
    """A range of pages, mapped privately."""

    __slots__ = ("address", "length", "offset", "protection", "source")

    def __init__(self, address: int, length: int, protection: int, source: int, offset: int = 0) -> None:
        self.address = address
        self.length = length
        self.protection = protection
        self.source = source
        self.offset = offset
        """In the source, in bytes."""

    def numbers(self) -> tuple[int, int, int, int, int]:
        """As numbers, in the order of the constructor."""
        return self.address, self.length, self.protection, self.source, self.offset


class Image:
    """A sealed memory file and how to map it. Addresses are those of one zygote: it is of no use to another's forks."""

    __slots__ = ("_fd", "digest", "end_of_heap", "microseconds", "pages", "segments", "serial", "users", "values")

    def __init__(
        self,
        serial: int,
        digest: bytes,
        fd: int,
        segments: list[Segment],
        end_of_heap: int,
        values: list[int],
        microseconds: int = 0,
    ) -> None:
        """``values`` are the engine's, of the loaded module; ``end_of_heap`` is 0 where the heap did not grow."""
        self.serial = serial
        """Tells it from all others of its forkserver."""
        self.digest = digest
        """The module's."""
        self.microseconds = microseconds
        """How long its making took."""
        self.users = 0
        """Instances that have it mapped: as long as there are any, its memory is in use."""
        self._fd = fd
        self.segments = segments
        self.end_of_heap = end_of_heap
        self.values = values
        self.pages = sum(each.length for each in segments if each.source == MEMORY) // linux.PAGE_BYTES

    @property
    def bytes(self) -> int:
        """How much memory the image takes."""
        return self.pages * linux.PAGE_BYTES

    def fileno(self) -> int:
        """The memory file's descriptor."""
        return self._fd

    def close(self) -> None:
        """Give the memory back once no instance has it mapped any more."""
        posix.close(self._fd)

    def map(self, calls: CallList, memory: int, product: int, failed: Label) -> None:
        """Add the calls that put the image in its place, from these descriptors of the worker's.

        The last of them restores the thread's own id, which lies on a page of the image (``struct pthread``).
        """
        if self.end_of_heap:
            calls.libc("brk", self.end_of_heap, fails=NEGATIVE, orelse=failed)
        files = {MEMORY: memory, PRODUCT: product}
        for segment in self.segments:
            fd = files.get(segment.source, -1)
            flags = linux.MAP_PRIVATE | linux.MAP_FIXED
            if fd < 0:
                flags |= linux.MAP_ANONYMOUS | linux.MAP_NORESERVE
            place = (segment.address, segment.length, segment.protection, flags, fd, segment.offset)
            calls.libc("mmap", *place, fails=NEGATIVE_LONG, orelse=failed)
        calls.libc("gettid", out=linux.thread_id_address())
