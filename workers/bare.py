"""Where Python lies in this process's memory: what a worker that makes C calls only has no use for.

A fork with these ranges left out (madvise(2), MADV_DONTFORK) has fewer mappings and page tables, and takes less time.
"""

from __future__ import annotations

import ctypes
import gc
import marshal
import os
import posix
import struct
import sys

from . import linux
from .images.snapshot import Mapping, mappings

_ARENA_BYTES = 1 << 20
"""What CPython's allocator takes at a time, since 3.10 (Objects/obmalloc.c, ARENA_BITS)."""
_POOL_BYTES = 1 << 14
"""What it cuts an arena into (POOL_BITS)."""
_POOL = struct.Struct("<32xIIII")
"""struct pool_header behind its pointers: the arena's number, the size class (of 16 bytes), and two offsets of blocks,
the first that was never used and the last."""
_PAGE = linux.PAGE_BYTES
_DT_RELA, _DT_RELASZ = 7, 8
_RELA = struct.Struct("<QQq")
_COPY = {"x86_64": 5, "aarch64": 1024}.get(posix.uname().machine, -1)  # kind of relocation
_RTLD_DI_LINKMAP = 2  # dlinfo(3)
_PT_LOAD, _ET_DYN = 1, 3  # elf(5)
_KIND = struct.Struct("<16xH")
_ELF = struct.Struct("<32xQ14xHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


def python_ranges() -> list[tuple[int, int]]:
    """The begin and length of each range. Only what is surely Python's: its program, library, modules and arenas.

    Empty where C++ exceptions would look at the mappings of all libraries: before glibc 2.35. Raises ``OSError``.
    """
    if not hasattr(ctypes.PyDLL(None), "_dl_find_object"):
        return []
    ours, theirs = posix.pipe2(posix.O_CLOEXEC)
    pid = linux.fork()  # to look takes memory, which would leave traces in the heap of all workers
    if pid == 0:
        try:
            posix.write(theirs, marshal.dumps(look()))
        finally:
            posix._exit(0)
    posix.close(theirs)
    with open(ours, "rb") as file:
        said = file.read()
    posix.waitpid(pid, linux.WALL)
    found: list[tuple[int, int]] = marshal.loads(said) if said else []
    return found


def look() -> list[tuple[int, int]]:
    """The same, found in this very process."""
    process = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        maps = mappings(process)
    finally:
        os.close(process)
    program = os.path.realpath(sys.executable).encode()
    files = {program} if movable(program) and not copies() else set()
    for module in list(sys.modules.values()):
        place = getattr(module, "__file__", None) or ""
        if place.endswith(".so"):
            files.add(os.path.realpath(place).encode())
    names = (b"libpython", b"libffi")
    ours = [each for each in maps if each.name in files or each.name.rpartition(b"/")[2].startswith(names)]
    ranges = [(each.begin, each.end) for each in ours]
    ranges += [found for file in {each.name for each in ours} if (found := _zeros(file, ours, maps))]
    ranges += _arenas(maps)
    ranges += [(each.begin, each.end) for each in _nameless(maps) if each.protection == 5]  # libffi's closures
    return [(begin, end - begin) for begin, end in _joined(sorted(ranges))]


def movable(program: bytes) -> bool:
    """Whether a program can lie anywhere. Through one that cannot (Debian's Python), libraries call C's functions.

    In such a one (ET_EXEC, elf(5)) the address of a function whose address it takes itself is that of its own stub, for
    everybody (System V ABI for AMD64, "Function Addresses"), and C's variables that it uses lie in it.
    """
    with open(program, "rb") as opened:
        start = opened.read(_KIND.size)
    return _KIND.unpack(start) == (_ET_DYN,)


def copies() -> bool:
    """Whether the program's own data has variables of libraries in it, which they use there, such as ``environ``.

    A program that can lie anywhere may have them, too (elf(5), relocations by copy).
    """
    libc = ctypes.PyDLL(None)
    link_map = ctypes.POINTER(ctypes.c_size_t * 3)()  # address, name, dynamic section (link.h)
    if libc.dlinfo(ctypes.c_void_p(libc._handle), _RTLD_DI_LINKMAP, ctypes.byref(link_map)):
        return True
    at, tag, found = link_map[0][2], 1, {}
    while tag:
        tag, value = struct.unpack("<qQ", ctypes.string_at(at, 16))
        found[tag] = value
        at += 16
    relocations = ctypes.string_at(found.get(_DT_RELA, 0), found.get(_DT_RELASZ, 0))
    return any(info & 0xFFFFFFFF == _COPY for _, info, _ in _RELA.iter_unpack(relocations))


def _zeros(file: bytes, ours: list[Mapping], maps: list[Mapping]) -> tuple[int, int] | None:
    """The range behind a library's last mapping that its zeros take (.bss), which is of no file."""
    with open(file, "rb") as opened:
        start = opened.read(4096)
    table, size, count = _ELF.unpack_from(start)
    if start[:4] != b"\x7fELF" or start[4] != 2 or size != _SEGMENT.size or table + size * count > len(start):
        return None
    parts = [_SEGMENT.unpack_from(start, table + size * i) for i in range(count)]
    loads = [part for part in parts if part[0] == _PT_LOAD]
    first = next(each for each in ours if each.name == file)
    last = max(each.end for each in ours if each.name == file)
    page = -_PAGE
    end = first.begin - (loads[0][3] & page) + (loads[-1][3] + loads[-1][6] - page - 1 & page)
    behind = next((each for each in maps if each.begin == last), None)
    if behind is None or behind.file is not None or behind.name or end <= last:
        return None
    return last, min(end, behind.end)


def _arenas(maps: list[Mapping]) -> list[tuple[int, int]]:
    """What the allocator of small objects has: from the first to the last pool of each arena."""
    objects = gc.get_objects()
    pools = {id(each) & -_POOL_BYTES for each in (*objects, *gc.get_referents(*objects))}
    places = _nameless(maps)
    spans: dict[int, tuple[int, int]] = {}
    for pool in pools:
        if not any(each.begin <= pool and pool + _POOL_BYTES <= each.end for each in places):
            continue
        number, size, _, last = _POOL.unpack(ctypes.string_at(pool, _POOL.size))
        if last != _POOL_BYTES - 16 * (size + 1):  # the object is a large one, which has other memory
            continue
        begin, end = spans.get(number, (pool, pool))
        spans[number] = min(begin, pool), max(end, pool + _POOL_BYTES)
    return [(begin, end) for begin, end in spans.values() if end - begin <= _ARENA_BYTES]


def _nameless(maps: list[Mapping]) -> list[Mapping]:
    """Mappings of no file, and no purpose that the kernel knows."""
    return [each for each in maps if not each.file and not each.name]


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in their order, with neighbours as one."""
    found: list[tuple[int, int]] = []
    for begin, end in ranges:
        if found and found[-1][1] >= begin:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found
