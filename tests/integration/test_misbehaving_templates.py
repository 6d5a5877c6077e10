"""Templates in a guest's hands: whatever they do, it ends with them, and no image comes of what is not plain memory."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from ..harness.aot import product as compiled
from ..harness.bare_forkserver import BareForkserver, Worker, confined
from ..harness.compiled import until
from ..harness.guests import guest

IMAGE_MEMORY = 64 << 20
STILL_SECONDS = 2.0


@pytest.fixture
def cells() -> Iterator[BareForkserver]:
    made = confined(image_memory=IMAGE_MEMORY)
    yield made
    made.close()


@pytest.fixture
def product(tmp_path: Path) -> Path:
    path = tmp_path / "product.so"
    path.write_bytes(b"\x7fELF" + bytes(8188))
    return path


def made(cells: BareForkserver, product: Path, function: str) -> str:
    """Return what the forkserver says of a template; "" where an image came of it."""
    template(cells, product, function)
    return cells.said()


def template(cells: BareForkserver, product: Path, function: str) -> None:
    """Start what needs one twice, so that there is a template, which misbehaves as its function's name says."""
    for _ in range(2):
        started(cells, product, function).wait()


def started(cells: BareForkserver, product: Path, function: str) -> Worker:
    return cells.start("own_fds", module=product, function=function.encode(), imageable=b"digest", uid=1000, gid=1000)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("ends", "the template died"),
        ("never_stops", "it took too long"),
        ("writes_all", " died"),
        ("maps_much", "mappings"),
        ("reserves_much", "it maps too much"),
        ("shares", "it shares memory"),
        ("changes_code", "the template died"),
        ("opens_its_memory", "the template died"),
        ("traces", "the template died"),
    ],
)
def test_no_image_comes_of_it(cells: BareForkserver, product: Path, function: str, why: str) -> None:
    said = made(cells, product, function)
    assert "no image of a module" in said, said
    assert why in said, said
    outcome = started(cells, product, function).wait()
    assert (outcome.report, outcome.status) == ("R", 0)
    until("nothing of it is left", lambda: children(cells) <= {"zygote-root", "zygote-worker"})


@pytest.mark.parametrize("function", ["reports", "keeps_writing", "ends_as_if_ready"])
def test_reports_of_a_template_hurt_its_own_image_alone(
    cells: BareForkserver, product: Path, tmp_path: Path, function: str
) -> None:
    """Its values are places that the instances of its image use, and its pages what they run on.

    One that ends as it reports may be looked at before its end or after it: an image comes of it, or none.
    """
    template(cells, product, function)
    until("it is looked at", lambda: children(cells) <= {"zygote-root", "zygote-worker"})
    with standing_still_ends(cells):
        for _ in range(3):
            started(cells, product, function).wait()
    other = tmp_path / "other.so"
    other.write_bytes(product.read_bytes())
    for path, name in ((product, "behaves"), (other, function)):
        outcome = started(cells, path, name).wait()
        assert (outcome.report, outcome.status) == ("R", 0)


def test_memory_of_images_in_use_is_not_given_again() -> None:
    """It stays with the instances when the image is dropped: it counts until they have ended."""
    cells = confined(broken_out=False, image_memory=300 << 10)  # of some 200 KiB each
    held = None
    read, write = os.pipe()
    module = compiled(guest("cat"))
    try:
        for _ in range(50):
            held = cells.start("x", module=module, imageable=b"digest", stdin=read)
            if "/memfd:image" in Path(f"/proc/{held.pid}/maps").read_text():
                break
            os.kill(held.pid, signal.SIGKILL)
            held.wait()
        else:
            raise AssertionError("no image")
        for _ in range(2):
            cells.start("x", module=module, imageable=b"digest", max_pages=100).wait()
        assert "has room for" in cells.said()
        os.kill(held.pid, signal.SIGKILL)
        held.wait()
    finally:
        os.close(read)
        os.close(write)
        cells.close()


@contextmanager
def standing_still_ends(cells: BareForkserver) -> Iterator[None]:
    """Kill workers that run for seconds: of an image taken in the midst of Python's work, some wait for its locks."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(STILL_SECONDS):
            for worker in psutil.Process(cells.pid).children():
                if worker.name() == "wasm-worker" and time.time() - worker.create_time() > STILL_SECONDS:
                    worker.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def children(cells: BareForkserver) -> set[str]:
    names = set()
    for pid in Path(f"/proc/{cells.pid}/task/{cells.pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            names.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return names
