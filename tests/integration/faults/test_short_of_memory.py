"""Memory runs out in one part or the other: the request fails and says so, all else goes on, and it comes back."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import ResourceExhausted, Unavailable

from ...harness.container import Container, Pod
from ...harness.daemon import Daemon
from ...harness.helpers import forkserver
from ...harness.names import RUN

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def no_more_memory(process: psutil.Process, more: int = 0) -> Iterator[None]:
    """The process may have only as much address space as it has, and this many bytes more."""
    process.rlimit(resource.RLIMIT_AS, (process.memory_info().vms + more, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        if process.is_running():
            process.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def started(container: Container, seconds: float = 10) -> Container:
    """Start it as soon as that works."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return container.start()
        except (ResourceExhausted, Unavailable):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_in_the_supervisor(daemon: Daemon, pod: Pod) -> None:
    assert daemon.process is not None
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    waiter = ends.wait_later().arrived()
    big = pod.with_wasm("exit").args("4").env(FILLER="x" * 1_000_000)
    with no_more_memory(psutil.Process(daemon.process.pid)):
        for _ in range(3):
            with pytest.raises(ResourceExhausted, match="out of memory: try again later"):
                big.build()
        assert runs.status() == "RUNNING"
        ends.kill(signal.SIGTERM)
        assert waiter.result().exit_status == 143
    assert big.build().status() == "CREATED"
    pod.shutdown()


def test_in_the_forkserver(daemon: Daemon, pod: Pod) -> None:
    server = forkserver(daemon)
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    waiter = ends.wait_later().arrived()
    big = pod.with_wasm("exit").args("4").env(FILLER="x" * 1_000_000).build()
    with no_more_memory(server, 512 << 10):  # less than the request; a new connection of the supervisor's fits
        with pytest.raises((Unavailable, ResourceExhausted)):
            big.start()
        assert (runs.status(), big.status()) == ("RUNNING", "CREATED")
        ends.kill(signal.SIGTERM)
        assert waiter.result().exit_status == 143
    assert started(big).wait() == 4
    assert forkserver(daemon) == server
    pod.shutdown()


def test_in_a_container_that_may_have_too_little(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("exit").linux(resources={"memory": {"limit": 100 << 10}}).build()
    with pytest.raises(ResourceExhausted, match="the worker was killed before the guest ran: its memory limit"):
        container.start()
    assert container.status() == "CREATED"
    assert pod.with_wasm("hello").build().start().wait() == 0
    pod.shutdown()


def start_all(containers: list[Container], begun: list[Container]) -> None:
    while containers:
        begun.append(containers.pop().start())


def memory_group(name: str) -> tuple[Path, str]:
    """A new memory control group beside this process's own, and the name of its limit; of either version."""
    lines = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    if "memory" in lines:
        group, limit = ROOT / "memory" / lines["memory"].lstrip("/") / name, "memory.limit_in_bytes"
    else:
        group, limit = ROOT / lines[""].lstrip("/") / name, "memory.max"
    group.mkdir()
    return group, limit


def test_in_the_forkserver_s_control_group(daemon: Daemon, pod: Pod) -> None:
    """The kernel kills whom it likes in there: every end of an instance is told, and no start comes out half."""
    kept = pod.with_wasm("sleep").linux(resources={"pids": {"limit": 9}}).build().start()
    group, limit = memory_group(f"short{RUN}")
    containers = [pod.with_wasm("sleep").build() for _ in range(40)]
    begun: list[Container] = []
    try:
        server = forkserver(daemon)
        for process in (server, *server.children(recursive=True)):
            if process.name() != "wasm-worker":  # what it forks from is a process of its own
                (group / "cgroup.procs").write_text(str(process.pid))
        begun.append(containers.pop().start())
        usage = (group / limit.replace("limit_in_bytes", "usage_in_bytes").replace("max", "current")).read_text()
        (group / limit).write_text(str(int(usage) + (1 << 18)))
        with pytest.raises((ResourceExhausted, Unavailable), match=r"memory|the forkserver"):
            start_all(containers, begun)
        (group / limit).write_text("-1" if "limit" in limit else "max")
        begun.append(started(containers.pop()))
        assert kept.status() == "RUNNING"
        for each in begun:
            with_status = {"RUNNING": None, "STOPPED": 137}[each.status()]
            assert with_status is None or each.wait() == with_status
        assert begun[-1].status() == "RUNNING"
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            try:
                (group.parent / "cgroup.procs").write_text(pid)
            except ProcessLookupError:
                pass
    pod.shutdown()
    deadline = time.monotonic() + 5
    while True:
        try:
            group.rmdir()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert daemon.workers() == []
