"""Workers from an image have no Python in them, and say what others say when they end."""

from __future__ import annotations

import glob
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import interpreters
from ..harness.aot import product
from ..harness.bare_forkserver import BareForkserver, Outcome, Worker, confined, forbidden
from ..harness.compiled import until
from ..harness.daemon import ROOT
from ..harness.guests import guest

PROGRAM = Path(sys.executable).resolve()
SPARE = """
from workers import bare
import os
program = os.path.realpath(sys.executable).encode()
print(bare.movable(program) and not bare.copies())
"""
MOVABLE = interpreters.output(SPARE).strip() == "True"
"""Whether workers do without this Python's program (``bare.movable``)."""
CALL_LISTS = 4096
"""KiB that a zygote maps for call lists."""


@pytest.fixture(scope="module")
def cells() -> Iterator[BareForkserver]:
    made = confined(broken_out=False, image_memory=64 << 20)
    yield made
    made.close()


def loaded_and_imaged(cells: BareForkserver, name: str, *args: str, **more: object) -> tuple[Outcome, Outcome]:
    """How a guest ends that loads its module, and how one that comes from an image."""

    def start() -> Worker:
        found = {"module": product(guest(name)), "imageable": f"{name}".encode(), **more}
        return cells.start(name, *args, **found)  # type: ignore[arg-type]

    first = start()
    assert not first.imaged
    ended = first.wait()
    for _ in range(300):
        worker = start()
        if worker.imaged:
            return ended, worker.wait()
        worker.wait()
    raise AssertionError("no image")


def test_a_trap_is_told_by_both(cells: BareForkserver) -> None:
    for outcome in loaded_and_imaged(cells, "trap"):
        assert (outcome.report, outcome.status) == ("R", 134)
        assert outcome.stderr.endswith("wasm trap: unreachable\n")


def test_a_forbidden_call_is_named_by_both(cells: BareForkserver) -> None:
    for outcome in loaded_and_imaged(cells, "conformance_sockets"):
        forbidden(outcome, "socket")


def test_a_failure_of_the_setup_is_told_by_both(cells: BareForkserver) -> None:
    loaded_and_imaged(cells, "hello")
    limits = {"rlimits": [(resource.RLIMIT_NOFILE, 20, 10)]}
    worker = cells.start("x", module=product(guest("hello")), imageable=b"hello", **limits)  # type: ignore[arg-type]
    assert worker.imaged
    assert worker.report == "Fresource limits: Invalid argument"
    assert worker.wait().status == 125
    worker = cells.start("x", module=product(guest("hello")), **limits)  # type: ignore[arg-type]
    assert worker.report == "Fresource limits: Invalid argument"
    worker.wait()


def resident(pid: int, size: int) -> list[int]:
    """KiB in memory of each mapping of so many KiB, of no file."""
    found, sizes = [], 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if name == "Size:":
            sizes = int(rest[0])
        elif name == "Rss:" and sizes == size:
            found.append(int(rest[0]))
    return found


def test_no_python_is_mapped_and_of_the_call_list_one_page_is_left(cells: BareForkserver) -> None:
    read, write = os.pipe()
    held = None
    for _ in range(300):
        held = cells.start("cat", module=product(guest("cat")), imageable=b"cat", stdin=read)
        if held.imaged:
            break
        os.kill(held.pid, signal.SIGKILL)
        held.wait()
    assert held is not None
    assert held.imaged
    maps = Path(f"/proc/{held.pid}/maps").read_text()
    assert "libwasmedge" in maps
    files = {Path(line.split()[5]).name for line in maps.splitlines() if " /" in line}
    assert {name for name in files if "python" in name} == (set() if MOVABLE else {PROGRAM.name})
    assert "libffi" not in maps
    until("the list is given back", lambda: sum(resident(held.pid, CALL_LISTS)) == 4)
    os.close(read)
    os.close(write)
    assert held.wait().status == 0


_RANGES = """
import ctypes
from workers import engines
from workers.bare import look
engines.load()
ranges = look()
within = lambda address: any(begin <= address < begin + length for begin, length in ranges)
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
place = lambda function: ctypes.cast(function, ctypes.c_void_p).value
theirs = [place(getattr(library, name)) for name in ("malloc", "snprintf", "environ", "_dl_find_object")]
blocks = [library.malloc(size) for size in (16, 600, 5000, 1 << 18, 1 << 20, 1 << 22)]
objects = [object() for _ in range(50_000)]
gone = look()
ends = [(begin, begin + length) for begin, length in ranges]
assert all(end <= begin for (_, end), (begin, _) in zip(ends, ends[1:])), ends
print(within(id(None)), within(id(Ellipsis)), any(map(within, theirs)), any(map(within, blocks)))
print(sum(length for _, length in gone) > sum(length for _, length in ranges))
"""


def test_ranges_are_pythons_alone() -> None:
    """What the C library and the engine have stays; what Python takes for more objects is found, too."""
    within = str(MOVABLE)
    assert interpreters.output(_RANGES).split() == [within, within, "False", "False", "True"]


@pytest.mark.parametrize("python", sorted({sys.executable, *glob.glob("/usr/bin/python3.1[0-9]")}))
def test_a_program_that_libraries_call_by_way_of_stays(python: str) -> None:
    """Debian's Python (ET_EXEC) has stubs that all libraries' function pointers name: it stays."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from workers import bare; from workers.images.snapshot import mappings; import os\n"
        "ranges = bare.look(); folder = os.open('/proc/self', os.O_RDONLY)\n"
        "program = os.path.realpath(sys.executable).encode()\n"
        "places = [each.begin for each in mappings(folder) if each.name == program]\n"
        "print(len(places), sum(begin <= place < begin + size for place in places for begin, size in ranges))\n"
        f"{SPARE}"
    )
    done = subprocess.run([python, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    *numbers, spare = done.stdout.split()
    mapped, left_out = map(int, numbers)
    assert left_out == (mapped if spare == "True" else 0)
    assert mapped >= 3


_DATA = """
import ctypes
from workers.bare import look
ranges = look()
library = ctypes.PyDLL(None)
for name in ("environ", "stdin", "stdout", "stderr"):
    address = ctypes.addressof(ctypes.c_void_p.in_dll(library, name))
    assert not any(begin <= address < begin + length for begin, length in ranges), name
print(any(begin <= id(look) < begin + length for begin, length in ranges))
"""


@pytest.mark.parametrize("python", sorted({sys.executable, *glob.glob("/usr/bin/python3.1[0-9]")}))
def test_variables_of_libraries_in_the_programs_data_stay(python: str) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{_DATA}"
    said = subprocess.run([python, "-I", "-S", "-c", script], check=True, capture_output=True, text=True).stdout
    assert said == "True\n"  # it has looked
