"""Taking an image of a process's memory: forks of one small interpreter stand for the zygote and its template."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from workers import linux
from workers.images import snapshot
from workers.images.image import MEMORY, NOTHING, Segment
from workers.images.snapshot import Snapshot, TooLarge, Unfit

PAGE = linux.PAGE_BYTES
ROOM = 64 << 20

# The regions are made before the forks, so both have them at the same addresses.
SCRIPT = """
import ctypes, mmap, os, signal, sys, threading
PAGE = mmap.PAGESIZE
PRIVATE, SHARED, ANONYMOUS = mmap.MAP_PRIVATE, mmap.MAP_SHARED, mmap.MAP_ANONYMOUS
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
def region(pages, flags=PRIVATE, protection=mmap.PROT_READ | mmap.PROT_WRITE):
    return mmap.mmap(-1, pages * PAGE, flags | ANONYMOUS, protection)
def address(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
known = region(16)
known.write(b"a" * len(known))
lists = region(4)
heap = libc.sbrk(0)
print(address(known), address(lists), heap, flush=True)
if not os.fork():
    signal.pause()
template = os.fork()
if not template:
    exec(sys.argv[1])
    print(os.getpid(), globals().get("said", 0), flush=True)
    after() if "after" in globals() else signal.pause()
signal.pause()
"""


class Pair:
    """A zygote, here the parent of both, and a template that has done something."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.known, self.lists, self.heap = map(int, process.stdout.readline().split())
        self.template, self.said = map(int, process.stdout.readline().split())
        children = [int(pid) for pid in _read(f"/proc/{process.pid}/task/{process.pid}/children").split()]
        (self.zygote,) = (pid for pid in children if pid != self.template)
        self._wait_asleep(self.zygote)

    @staticmethod
    def _wait_asleep(pid: int) -> None:
        """Until it is at its pause, with nothing more to write."""
        deadline = time.monotonic() + 10
        while _state(pid) != "S":
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def kill_template(self) -> None:
        """Kill it, and wait until it is dead."""
        os.kill(self.template, signal.SIGKILL)
        while os.path.exists(f"/proc/{self.template}/exe") and _state(self.template) != "Z":
            pass

    def settled(self) -> Pair:
        """The pair, when the template is at its pause."""
        self._wait_asleep(self.template)
        return self

    def take(self, room: int = ROOM, before: Callable[[], None] = lambda: None) -> tuple[list[Segment], int, bytes]:
        """The segments, the end of the heap where it grew, and the image's bytes. ``before`` pages are looked at."""
        left_out = self.lists, self.lists + 4 * PAGE
        file = os.memfd_create("image")
        folders = [os.open(f"/proc/{pid}", os.O_DIRECTORY) for pid in (self.zygote, self.template)]
        try:
            taken = Snapshot(*folders, left_out, (0, 0))
            before()
            segments, end = taken.take(file, room)
            return segments, end, os.pread(file, os.fstat(file).st_size, 0)
        finally:
            for folder in folders:
                os.close(folder)
            os.close(file)


@contextmanager
def forks(what: str) -> Iterator[Pair]:
    """A pair whose template has done this."""
    command = [sys.executable, "-S", "-E", "-c", SCRIPT, what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield Pair(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def memory(pid: int, begin: int, length: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb") as file:
        return os.pread(file.fileno(), length, begin)


def mappings_of(pid: int) -> list[snapshot.Mapping]:
    folder = os.open(f"/proc/{pid}", os.O_DIRECTORY)
    try:
        return snapshot.mappings(folder)
    finally:
        os.close(folder)


def pages_of(segments: list[Segment], begin: int, pages: int, source: int = MEMORY) -> set[int]:
    """The pages of a region, by number, that segments of this source cover."""
    covered = {
        at for each in segments if each.source == source for at in range(each.address, each.address + each.length, PAGE)
    }
    return {(at - begin) // PAGE for at in covered if begin <= at < begin + pages * PAGE}


def test_pages_that_were_written_are_taken_and_others_are_not() -> None:
    """But for a few between two of them: a page is less than a mapping."""
    with forks("known[0] = known[13 * PAGE + 7] = known[15 * PAGE] = 1; known[9 * PAGE] = ord('a')") as pair:
        segments, _, image = pair.settled().take()
        assert pages_of(segments, pair.known, 16) == {0, 13, 14, 15}
        for each in segments:
            if each.source == MEMORY:
                kept = image[each.offset : each.offset + each.length]
                assert kept == memory(pair.template, each.address, each.length)


def test_the_zygotes_memory_with_the_segments_over_it_is_the_templates() -> None:
    what = "new = region(64); new[10 * PAGE] = 7; new[11 * PAGE] = 8; known[0] = 1; libc.sbrk(40 * PAGE)"
    with forks(what) as pair:
        segments, end, image = pair.settled().take()
        places = {"[stack]", "[vvar]", "[vdso]", "[vvar_vclock]", "[vsyscall]"}
        for mapping in mappings_of(pair.template):
            left_out = mapping.begin <= pair.lists < mapping.end
            if not mapping.protection & 1 or mapping.name.decode() in places or left_out or mapping.shared:
                continue
            length = mapping.end - mapping.begin
            built = bytearray(length)
            for old in mappings_of(pair.zygote):
                begin, stop = max(old.begin, mapping.begin), min(old.end, mapping.end)
                if begin < stop and old.protection & 1:
                    built[begin - mapping.begin : stop - mapping.begin] = memory(pair.zygote, begin, stop - begin)
            for each in segments:
                begin, stop = max(each.address, mapping.begin), min(each.address + each.length, mapping.end)
                if begin >= stop:
                    continue
                content = bytes(stop - begin)
                if each.source == MEMORY:
                    at = each.offset + begin - each.address
                    content = image[at : at + stop - begin]
                built[begin - mapping.begin : stop - mapping.begin] = content
            assert bytes(built) == memory(pair.template, mapping.begin, length), mapping.name
        assert end > pair.heap


def test_a_new_mapping_is_reserved_and_only_its_written_pages_are_kept() -> None:
    with forks("new = region(1000); new[500 * PAGE] = 1; said = address(new)") as pair:
        begin = pair.settled().said
        segments, _, _ = pair.take()
        assert pages_of(segments, begin, 1000) == {500}
        assert pages_of(segments, begin, 1000, NOTHING) == set(range(1000))


def test_call_lists_are_left_out() -> None:
    with forks("lists[0] = lists[2 * PAGE] = 1") as pair:
        segments, _, _ = pair.take()
        assert not pages_of(segments, pair.lists, 4)


def test_pages_beside_call_lists_are_taken() -> None:
    """The kernel makes one mapping of neighbours that are alike."""
    with forks("known[3 * PAGE] = known[5 * PAGE] = known[9 * PAGE] = 1") as pair:
        pair.lists = pair.settled().known + 4 * PAGE
        segments, _, _ = pair.take()
        assert pages_of(segments, pair.known, 16) == {3, 9}


def test_protections_are_kept() -> None:
    with forks("libc.mprotect(ctypes.c_void_p(address(known) + 4 * PAGE), PAGE, mmap.PROT_READ)") as pair:
        segments, _, _ = pair.take()
        (only,) = [
            each
            for each in segments
            if each.address <= pair.known + 4 * PAGE < each.address + each.length and each.source == MEMORY
        ]
        assert only.protection == linux.PROT_READ


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("new = region(4, SHARED); new[0] = 1", "it shares memory"),
        ("new = region(4, PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)", "machine code"),
        ("import tempfile; file = tempfile.TemporaryFile(); file.write(bytes(PAGE)); file.flush();"
         "new = mmap.mmap(file.fileno(), PAGE, PRIVATE)", "it maps"),
        ("held = [region(1, PRIVATE, mmap.PROT_READ * (n % 2)) for n in range(20_000)]", "mappings"),
        ("libc.mmap.restype = ctypes.c_void_p\n"
         "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]\n"
         "libc.mmap(None, 32 << 30, 3, PRIVATE | ANONYMOUS | 0x4000, -1, 0)", "it maps too much"),
        ("new = region(12000)\nfor n in range(0, 12000, 10): new[n * PAGE] = 1", "too many places"),
    ],
    ids=["shared memory", "machine code", "another file", "thousands of mappings", "32 GiB", "scattered pages"],
)  # fmt: skip
def test_a_template_that_does_what_no_loader_does_has_no_image(what: str, why: str) -> None:
    with forks(what) as pair, pytest.raises(Unfit, match=why):
        pair.take()


def test_more_memory_than_there_is_room_for_is_counted_and_not_kept() -> None:
    with forks("new = region(4096); new.write(b'x' * len(new))") as pair:
        with pytest.raises(TooLarge) as refused:
            pair.take(room=1 << 20)
        assert 4096 * PAGE <= refused.value.args[0] < 4096 * PAGE + (8 << 20)
        segments, _, _ = pair.take(room=refused.value.args[0] + (1 << 20))
        assert sum(each.length for each in segments if each.source == MEMORY) >= 4096 * PAGE


def test_a_template_that_has_died_has_no_image() -> None:
    with forks("pass") as pair:
        pair.kill_template()
        segments: list[Segment] = []
        with pytest.raises((OSError, Unfit)):
            segments, _, _ = pair.take()
        assert not segments


def test_a_template_that_dies_while_it_is_looked_at_is_said_to_have_died() -> None:
    with forks("known[0] = 1") as pair, pytest.raises(Unfit, match="the template died"):
        pair.settled().take(before=pair.kill_template)


def _state(pid: int) -> str:
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]


def test_a_template_that_never_stops_writing_is_taken_as_it_was_seen_or_refused() -> None:
    busy = "new = region(256)\ndef after():\n  n = 0\n  while True:\n    n += 1; new[n % 256 * PAGE] = n & 255"
    with forks(busy) as pair:
        for _ in range(5):
            segments, _, image = pair.take()
            kept = sum(each.length for each in segments if each.source == MEMORY)
            assert len(image) == kept
