"""The bound of a running guest's linear memory, changed in place.

WasmEdge takes the bound when it makes a memory, and looks at it whenever the guest asks for more
(``MemoryInstance::growPage``); no function of its C API changes it. So it is written where the engine keeps it. What is
known of WasmEdge 0.14: a memory is a reservation of 12 GiB, whose pages from the fourth GiB on are opened as the guest
grows (lib/system/allocator.cpp), and its object holds, one behind the other, the pages that are open, their maximum,
the address of the first, and the bound (include/runtime/instance/memory.h). That is looked for in the worker's own
memory, the guest's pages left out, and where it is not found exactly once nothing is changed.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass

from . import proc

PAGE = 65536
MOST_PAGES = 65536
_RESERVED, _BEFORE = 12 << 30, 4 << 30
_MOST_SEARCHED = 256 << 20
_PIECE = 1 << 20
_OBJECT = struct.Struct("<IIxxxxQI")
"""Pages open, the module's maximum, where they begin, the bound."""
_BEGIN_AT, _BOUND_AT = 12, 20
_TRIES, _PAUSE = 10, 0.005


@dataclass(frozen=True, slots=True)
class _Area:
    begin: int
    end: int
    mode: str


def set_bound(pid: int, start_time: int, pages: int) -> bool:
    """Let all linear memories of a worker grow to so many pages of 64 KiB; whether that could be done.

    A memory that is larger keeps what it has. ``start_time`` says with the pid which process is meant
    (``proc.start_time``). May take milliseconds, for each MiB that the engine holds: not for the event loop.
    """
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if proc.start_time(pid) != start_time:  # from here on the descriptor is that process's memory, or nobody's
            return False
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE)  # it grew while we looked
            places = _places(memory, _areas(pid))
            if places:
                for place in places:
                    _write(memory, place, pages)
                return True
    except (OSError, ValueError, struct.error):  # it has ended
        pass
    finally:
        os.close(memory)
    return False


def _places(memory: int, areas: list[_Area]) -> list[int]:
    """Where the objects of all linear memories are; empty where one is not found."""
    opened = _memories(areas)
    places = [_find(memory, areas, opened, begin) for begin in opened]
    return [place for place in places if place is not None] if None not in places else []


def _write(memory: int, place: int, pages: int) -> None:
    """Write the bound, which must not be less than what is open: the engine subtracts one from the other."""
    while True:
        now = _OBJECT.unpack(os.pread(memory, _OBJECT.size, place))[0]
        bound = min(max(pages, now), MOST_PAGES)
        os.pwrite(memory, struct.pack("<I", bound), place + _BOUND_AT)
        if _OBJECT.unpack(os.pread(memory, _OBJECT.size, place))[0] <= bound:
            return


def _areas(pid: int) -> list[_Area]:
    found = []
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            place, mode, _ = line.split(" ", 2)
            begin, _, end = place.partition("-")
            found.append(_Area(int(begin, 16), int(end, 16), mode))
    return found


def _memories(areas: list[_Area]) -> dict[int, int]:
    """The linear memories: where each begins, and how far it is open."""
    found = {}
    for number, area in enumerate(areas):
        if area.mode != "---p" or area.end - area.begin < _BEFORE:
            continue
        begin, at = area.begin + _BEFORE, area.end
        opened = begin
        for following in areas[number + 1 :]:
            if following.begin != at or at >= area.begin + _RESERVED:
                break
            if following.mode == "rw-p":
                opened = following.end
            at = following.end
        if at >= area.begin + _RESERVED:
            found[begin] = opened
    return found


def _find(memory: int, areas: list[_Area], opened: dict[int, int], begin: int) -> int | None:
    """Where the object of the memory that begins there is; None where there is none, or more than one may be it."""
    found: list[int] = []
    searched = 0
    needle = struct.pack("<Q", begin)
    for area in areas:
        if area.mode != "rw-p" or any(first <= area.begin < end for first, end in opened.items()):
            continue
        searched += area.end - area.begin
        if searched > _MOST_SEARCHED:
            return None
        # In pieces, since a worker's size is the guest's doing; they overlap by less than an object.
        for start in range(area.begin, area.end, _PIECE):
            data = os.pread(memory, min(_PIECE + _OBJECT.size - 1, area.end - start), start)
            at = data.find(needle, _BEGIN_AT)
            while 0 <= at <= len(data) - (_OBJECT.size - _BEGIN_AT):
                now, _, _, bound = _OBJECT.unpack_from(data, at - _BEGIN_AT)
                if now * PAGE == opened[begin] - begin and 0 < bound <= MOST_PAGES:
                    found.append(start + at - _BEGIN_AT)
                at = data.find(needle, at + 1)
    return found[0] if len(found) == 1 else None
