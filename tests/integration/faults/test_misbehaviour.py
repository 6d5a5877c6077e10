"""Guests that misbehave inside WebAssembly are their own problem: neighbours start and end as ever, within bounds."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ...harness.container import Builder, Collected, Container, Pod
from ...harness.daemon import Daemon

LATENCY = 2.0
"""Seconds that a neighbour may take from Create to its end beside one guest that takes all it can get, median."""
GROWTH = 32 << 20
"""Bytes by which the supervisor may grow meanwhile."""

# (module (memory 65536) (func (export "_start"))): 4 GiB declared, nothing touched
FOUR_GIB = bytes.fromhex("0061736d 01000000 010401600000 03020100 05050100808004 070a01065f73746172740000 0a040102000b")


@pytest.fixture
def pod(daemon: Daemon) -> Iterator[Pod]:
    made = Pod(daemon)
    yield made
    made.stop()
    made.shutdown()
    made.close()


def supervisor(pod: Pod) -> psutil.Process:
    assert pod.daemon.process is not None
    return psutil.Process(pod.daemon.process.pid)


def neighbour(pod: Pod) -> float:
    """Seconds from Create to the end of a well-behaved guest."""
    builder = pod.with_wasm("hello")
    begun = time.monotonic()
    container = builder.build().start()
    assert container.wait() == 0
    elapsed = time.monotonic() - begun
    container.delete()
    container.connection.close()
    return elapsed


def bounded(pod: Pod, *guilty: Container) -> None:
    """Neighbours and supervisor stay within the bounds while these run."""
    before = supervisor(pod).memory_info().rss
    assert statistics.median(neighbour(pod) for _ in range(15)) < LATENCY
    assert supervisor(pod).memory_info().rss - before < GROWTH
    for container in guilty:
        container.state()


def test_endless_loops(pod: Pod) -> None:
    guilty = [pod.with_wasm("spin").build().start() for _ in range(4)]
    bounded(pod, *guilty)
    assert [each.status() for each in guilty] == ["RUNNING"] * 4


def test_memory_without_end(pod: Pod) -> None:
    limits = {"memory": {"limit": 64 << 20, "swap": 64 << 20}}
    filling = pod.with_wasm("fill").args("/shm/file").mount("/shm", "tmpfs", "tmpfs")
    guilty = filling.linux(resources=limits).build().start()
    bounded(pod, guilty)
    assert guilty.wait() == 137


def test_recursion_without_end_is_a_trap(pod: Pod) -> None:
    guilty = pod.with_wasm("recurse").build().start()
    assert guilty.wait() == 134
    assert "wasm trap" in guilty.stderr()
    bounded(pod)


@pytest.mark.engines("auto")  # Wasmtime refuses a module that declares more than it may have
def test_four_gigabytes_declared(pod: Pod) -> None:
    """WasmEdge reserves addresses, no memory: what is touched counts, and ends at the container's limit."""
    limits = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    crowd = [pod.with_wasm(FOUR_GIB).linux(resources=limits).build().start() for _ in range(10)]
    assert [each.wait() for each in crowd] == [0] * 10
    bounded(pod)


def flooding(pod: Pod, where: str | Path = "") -> Builder:
    return pod.with_wasm("flood").args("2000000000").streams(stdout=where, stderr="")


def test_floods_of_output(pod: Pod) -> None:
    unread = flooding(pod).fifos("stdout")
    fifo = os.open(unread.bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    guilty = [unread.build().start(), flooding(pod, "/dev/null").build().start()]
    bounded(pod, *guilty)
    assert [each.status() for each in guilty] == ["RUNNING"] * 2
    os.close(fifo)


def test_writes_to_a_terminal_that_nobody_reads(pod: Pod) -> None:
    builder = flooding(pod).terminal().fifos("stdout")
    fifo = os.open(builder.bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    guilty = builder.build().start()
    bounded(pod, guilty)
    guilty.kill(signal.SIGKILL)
    assert guilty.wait() == 137
    os.close(fifo)


def test_input_that_nobody_reads(pod: Pod) -> None:
    guilty = pod.with_wasm("sleep").fifos("stdin").build().start()
    fifo = os.open(guilty.bundle / "stdin", os.O_WRONLY | os.O_NONBLOCK)
    written = 0
    while written < 4 << 20:
        try:
            written += os.write(fifo, bytes(65536))
        except BlockingIOError:
            break
    assert written < 4 << 20  # pipes and relay hold no more
    bounded(pod, guilty)
    os.close(fifo)


def test_thousands_of_open_files(pod: Pod) -> None:
    builder = pod.with_wasm("openfiles").fifos("stdout")
    builder.process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}])
    container = builder.build()
    fifo = os.open(builder.bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fifo, True)
    container.start()
    with open(fifo) as output:
        opened = int(output.readline().split()[1])
    assert 900 < opened < 1024
    bounded(pod, container)


def test_a_crowd_that_ends_at_once(pod: Pod) -> None:
    crowd = [pod.with_wasm("trap").streams(stdout="", stderr="").build().start() for _ in range(100)]
    bounded(pod)
    assert [each.wait() for each in crowd] == [134] * 100


def test_a_flood_that_is_read(pod: Pod) -> None:
    builder = flooding(pod).fifos("stdout")
    output = Collected(builder.bundle / "stdout")
    guilty = builder.build().start()
    bounded(pod, guilty)
    guilty.kill(signal.SIGKILL)
    assert guilty.wait() == 137
    assert output.text().startswith("line 1 of")
