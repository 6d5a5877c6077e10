"""How long a start takes, and what an idle instance costs: ``python -m tests.bench.start [--instances 500]``.

Time is from Task Create to the first byte the guest writes, client included, against ``os.fork`` of the
benchmark's own process in the same run. Memory is the difference of MemAvailable, all kernel memory
included, divided by the number of idle instances.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Container, Pod
from ..harness.daemon import Daemon


def available() -> int:
    """MemAvailable in KiB (proc_meminfo(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def settled() -> int:
    """MemAvailable once it has stopped moving: it lags behind by seconds when processes end."""
    before, now = 0, available()
    while abs(before - now) > 256:
        time.sleep(0.5)
        before, now = now, available()
    return now


def first_byte(pod: Pod) -> float:
    """Seconds from Task Create to the first byte of output."""
    builder = pod.with_wasm("hello").fifos("stdout").write()
    fifo = os.open(builder.bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fifo, True)
    container = Container(builder)
    begun = time.perf_counter()
    container.connection.call("Create", builder.request())
    container.start()
    os.read(fifo, 1)
    elapsed = time.perf_counter() - begun
    os.close(fifo)
    container.wait()
    container.delete()
    container.connection.close()
    return elapsed


def bare_fork() -> float:
    """Seconds for os.fork, exit and wait of this very process."""
    begun = time.perf_counter()
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - begun


def row(name: str, values: list[float]) -> str:
    """Median and quartiles in milliseconds."""
    low, middle, high = (value * 1000 for value in statistics.quantiles(values, n=4))
    return f"{name:34} {middle:8.2f} ms   quartiles {low:.2f} to {high:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=500, help="idle instances for the memory figure")
    parser.add_argument("--starts", type=int, default=200, help="starts for the time figure")
    options = parser.parse_args()
    with Daemon() as daemon:
        pod = Pod(daemon)
        for _ in range(20):
            first_byte(pod)
        starts, forks = [], []
        for _ in range(options.starts):
            starts.append(first_byte(pod))
            forks.append(bare_fork())
        print(row("Task Create to first byte", starts))
        print(row("os.fork, exit, wait", forks))
        print(f"{'ratio of the medians':34} {statistics.median(starts) / statistics.median(forks):8.2f}")
        print(f"starting {options.instances} idle instances", file=sys.stderr)
        containers = [pod.with_wasm("sleep").streams(stdout="", stderr="").build() for _ in range(options.instances)]
        before = settled()
        for container in containers:
            container.start()
        after = settled()
        print(f"{'memory of an idle instance':34} {(before - after) / options.instances:8.0f} KiB")
        begun = time.perf_counter()
        for container in containers:
            container.connection.call("State", pb.StateRequest(id=container.id))
        elapsed = (time.perf_counter() - begun) / options.instances
        print(f"{'a State while they live':34} {elapsed * 1000:8.2f} ms")
        pod.stop()
        pod.shutdown()
        pod.close()


if __name__ == "__main__":
    main()
