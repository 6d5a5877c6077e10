"""A guest that changes its module while it is loaded: no machine code of an image ever runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument

from ..harness.container import Container, Pod
from ..harness.guests import guest

EXECS = 150
CONSTRUCTOR = """
#include <unistd.h>
__attribute__((constructor)) static void run(void) { write(1, "machine code\\n", 13); }
"""
FLIP = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
print("flipping", flush=True)
while True:
    os.pwrite(fd, b"\\0asm", 0)
    os.pwrite(fd, b"\\x7fELF", 0)
"""


@pytest.fixture
def running(pod: Pod) -> Container:
    return pod.with_wasm("sleep").build().start()


def shared_object(folder: Path) -> bytes:
    """A shared object whose constructor says so on stdout."""
    source, made = folder / "native.c", folder / "native.so"
    source.write_text(CONSTRUCTOR)
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-shared", "-o", str(made), str(source)], check=True)
    return made.read_bytes()


def test_constructor_of_a_shared_object_never_runs(running: Container, tmp_path: Path) -> None:
    module = running.rootfs / "flips.wasm"
    module.write_bytes(shared_object(tmp_path))
    refused = 0
    with subprocess.Popen([sys.executable, "-c", FLIP, str(module)], stdout=subprocess.PIPE) as flipping:
        try:
            assert flipping.stdout is not None
            flipping.stdout.readline()
            for number in range(EXECS):
                name = f"e{number}"
                running.add_exec(name, "/flips.wasm")
                try:
                    running.start(name)
                except InvalidArgument:
                    refused += 1
                assert (running.bundle / f"{name}.out").read_text() == ""
        finally:
            flipping.kill()
    assert refused == EXECS


def test_module_that_shrinks_or_grows_is_refused_or_run(running: Container) -> None:
    """Nothing but an answer comes of it, whatever is read."""
    module, whole = running.rootfs / "shrinks.wasm", guest("exit").read_bytes()
    module.write_bytes(whole)
    flip = FLIP.replace('os.pwrite(fd, b"\\0asm", 0)', f"os.ftruncate(fd, 100); os.pwrite(fd, {whole!r}, 0)")
    flip = flip.replace('os.pwrite(fd, b"\\x7fELF", 0)', "")
    with subprocess.Popen([sys.executable, "-c", flip, str(module)], stdout=subprocess.PIPE) as flipping:
        try:
            assert flipping.stdout is not None
            flipping.stdout.readline()
            for number in range(30):
                running.add_exec(f"e{number}", "/shrinks.wasm", "3")
                try:
                    running.start(f"e{number}")
                except InvalidArgument:
                    continue
                assert running.wait(f"e{number}") == 3
        finally:
            flipping.kill()


@pytest.mark.parametrize(
    ("size", "why"),
    [(0, "does not begin with"), (3, "does not begin with"), (1 << 30, "larger than 1 GiB"), (1 << 40, "larger")],
)
def test_module_of_no_fitting_size_is_refused(running: Container, size: int, why: str) -> None:
    with (running.rootfs / "odd.wasm").open("wb") as file:
        file.write(b"\0asm"[:size])
        file.truncate(size)
    running.add_exec("odd", "/odd.wasm")
    with pytest.raises(InvalidArgument, match=why):
        running.start("odd")
