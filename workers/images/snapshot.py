"""Taking an image: what a template's memory has that its zygote's has not, page by page.

The template may be in a guest's hands (it has parsed the guest's bytes), so nothing that is read from it is understood:
pages are compared and copied, the kernel says what is mapped where (proc_pid_maps(5), proc_pid_pagemap(5)), and
everything is counted.
"""

from __future__ import annotations

import os
import posix
import struct

from .. import linux
from .image import MEMORY, NOTHING, PRODUCT, Segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_MAPPINGS = 512
"""A worker has about 200, and a loaded module adds a dozen."""
MOST_SEGMENTS = 1024
MOST_LOOKED_AT = 16 << 30
"""Bytes of address space; a guest's memory is reserved by the gigabyte."""

_PRESENT, _SWAPPED, _OF_FILE = 1 << 63, 1 << 62, 1 << 61  # proc_pid_pagemap(5)
_PAGE = linux.PAGE_BYTES
_ZEROS = bytes(_PAGE)
_CHUNK = 4096  # pages
_BRIDGE = 8 * _PAGE
"""As much memory may lie between two places that differ and go into the image with them: a mapping costs more."""


class Unfit(Exception):
    """There can be no image of this process; the text says why."""


class TooLarge(Exception):
    """An image would take more memory than it may have; the argument says how many bytes."""


class Mapping:
    """A line of /proc/PID/maps."""

    __slots__ = ("begin", "end", "file", "line", "name", "offset", "protection", "shared")

    def __init__(self, line: bytes) -> None:
        self.line = line
        place, flags, offset, device, inode, *name = line.split(None, 5)
        self.begin, self.end = (int(each, 16) for each in place.split(b"-"))
        self.protection = sum(bit for bit, letter in zip((1, 2, 4), b"rwx", strict=True) if letter in flags)
        self.shared = flags[3:4] == b"s"
        self.offset = int(offset, 16)
        major, minor = (int(each, 16) for each in device.split(b":"))
        self.file = (posix.makedev(major, minor), int(inode)) if inode != b"0" else None
        self.name = name[0].strip() if name else b""

    def part(self, begin: int, end: int) -> Mapping:
        """The part of it that lies in a range; nothing where ``begin`` is not below ``end`` then."""
        part = Mapping(self.line)
        part.begin, part.end = max(self.begin, begin), min(self.end, end)
        part.offset += part.begin - self.begin
        return part

    def like(self, other: Mapping) -> bool:
        """Whether ``other`` covers this range in the same way."""
        return (
            other.begin <= self.begin
            and self.end <= other.end
            and (self.protection, self.file) == (other.protection, other.file)
            and (not self.file or self.offset - self.begin == other.offset - other.begin)
        )


class Snapshot:
    """The comparison of two processes' memory."""

    def __init__(self, zygote: int, template: int, left_out: tuple[int, int], product: tuple[int, int]) -> None:
        """Compare two processes. ``zygote`` and ``template`` are descriptors of their folders in /proc.

        Such a folder is never another process's. ``left_out`` is the range where call lists lie, ``product`` the file's
        device and inode. Raises ``OSError`` and ``Unfit``.
        """
        self._template = template
        self._left_out = left_out
        self._product = product
        self._before = mappings(zygote)
        self._after = mappings(template)
        self._old = os.open("mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=zygote)
        self._new = os.open("mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=template)
        self._pages = os.open("pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=template)
        self._segments: list[Segment] = []
        self._file = -1
        self._top = 0
        self._most = 0

    def take(self, file: int, most: int) -> tuple[list[Segment], int]:
        """Write the pages that differ, ``most`` bytes of them, into a file: the segments, and where the heap now ends.

        The end of the heap is 0 where it has not moved. Raises ``OSError``, ``Unfit`` and ``TooLarge``.
        """
        self._file, self._most = file, most
        try:
            end_of_heap = self._take()
        finally:
            if not mappings(self._template):  # whatever else was missed, this is why
                raise Unfit("the template died")
        if self._top > self._most:
            raise TooLarge(self._top)
        return self._segments, end_of_heap

    def _take(self) -> int:
        if sum(each.end - each.begin for each in self._after if each.protection & 1) > MOST_LOOKED_AT:
            raise Unfit("it maps too much")
        heap, end_of_heap = _heap(self._before), 0
        for mapping in self._pieces():
            if mapping.name[:2] == b"[v" or mapping.name == b"[stack]":
                continue
            known = any(mapping.like(each) for each in self._before)
            if mapping.shared:
                if not known:
                    raise Unfit("it shares memory")
            elif mapping.name == b"[heap]":
                if heap is None:
                    raise Unfit("it has a heap, and its zygote has none")
                end_of_heap = mapping.end if mapping.end != heap.end else 0
                self._compare(mapping, min(heap.end, mapping.end))
            elif known:
                if mapping.protection & 2:
                    self._compare(mapping, mapping.end)
            else:
                self._add_new(mapping)
        return end_of_heap

    def _pieces(self) -> Iterator[Mapping]:
        """The template's mappings without what is left out: the kernel makes neighbours one mapping."""
        begin, end = self._left_out
        for mapping in self._after:
            if mapping.begin >= end or begin >= mapping.end:
                yield mapping
                continue
            for piece in (mapping.part(mapping.begin, begin), mapping.part(end, mapping.end)):
                if piece.begin < piece.end:
                    yield piece

    def _add_new(self, mapping: Mapping) -> None:
        """A mapping that the zygote has not: itself, and over it the pages that are not as it begins."""
        length = mapping.end - mapping.begin
        if mapping.file is None:
            if mapping.protection & linux.PROT_EXEC:
                raise Unfit("it has machine code of its own")
            self._append(Segment(mapping.begin, length, mapping.protection, NOTHING))
        elif mapping.file == self._product:
            self._append(Segment(mapping.begin, length, mapping.protection, PRODUCT, mapping.offset))
        else:
            raise Unfit(f"it maps {mapping.name.decode(errors='replace')}")
        if mapping.protection & 1:
            self._compare(mapping, mapping.begin)

    def _compare(self, mapping: Mapping, old: int) -> None:
        """Copy the pages that differ from the zygote's, up to the address ``old``, and from zeros beyond it."""
        at = mapping.begin
        while at < mapping.end:
            entries = os.pread(self._pages, 8 * min(_CHUNK, (mapping.end - at) // _PAGE), at // _PAGE * 8)
            if not entries:
                raise Unfit("its pages cannot be seen")
            for (entry,) in struct.iter_unpack("<Q", entries):
                if entry & (_PRESENT | _SWAPPED) and not (mapping.file and entry & _OF_FILE):
                    page = os.pread(self._new, _PAGE, at)
                    if page != (os.pread(self._old, _PAGE, at) if at < old else b"" if mapping.file else _ZEROS):
                        self._copy(at, page, mapping)
                at += _PAGE

    def _copy(self, address: int, page: bytes, mapping: Mapping) -> None:
        last = self._segments[-1] if self._segments else None
        if last is not None and last.source == MEMORY and mapping.file is None:
            behind = last.address + last.length
            if mapping.begin < behind < address <= behind + _BRIDGE:
                for at in range(behind, address, _PAGE):
                    self._write(at, os.pread(self._new, _PAGE, at), mapping.protection)
        self._write(address, page, mapping.protection)

    def _write(self, address: int, page: bytes, protection: int) -> None:
        if len(page) != _PAGE:
            raise Unfit("its memory cannot be read")
        if protection & linux.PROT_EXEC:
            raise Unfit("it has machine code of its own")
        if self._top + _PAGE <= self._most:  # beyond, it is counted alone
            os.pwrite(self._file, page, self._top)
        last = self._segments[-1] if self._segments else None
        if (
            last is not None
            and last.source == MEMORY
            and last.protection == protection
            and last.address + last.length == address
        ):
            last.length += _PAGE
        else:
            self._append(Segment(address, _PAGE, protection, MEMORY, self._top))
        self._top += _PAGE

    def _append(self, segment: Segment) -> None:
        if len(self._segments) >= MOST_SEGMENTS:
            raise Unfit("its memory lies in too many places")
        self._segments.append(segment)


def mappings(process: int) -> list[Mapping]:
    """The mappings of a process, by its folder in /proc, in the order of their addresses; none of one that has ended.

    Raises ``OSError`` and ``Unfit``.
    """
    found: list[Mapping] = []
    with open(os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as file:
        for line in file:
            found.append(Mapping(line))
            if len(found) > MOST_MAPPINGS:
                raise Unfit(f"it has more than {MOST_MAPPINGS} mappings")
    return found


def _heap(among: list[Mapping]) -> Mapping | None:
    return next((each for each in among if each.name == b"[heap]"), None)
