"""A node that runs out of something: the request that needs it fails and says so, all else goes on."""

from __future__ import annotations

import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import NotFound, ResourceExhausted, SandboxerError
from sandbox_api.proto import task_pb2 as pb

from ...harness.container import Container, Pod
from ...harness.daemon import Daemon
from ...harness.disk import full
from ...harness.helpers import forkserver, zygote
from ...harness.names import RUN
from ...harness.ttrpc import Connection

PIDS = Path("/sys/fs/cgroup/pids")


@pytest.fixture
def small() -> Iterator[Daemon]:
    """A daemon whose --dir is a file system of 2 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="wasm-sb-"))
    (folder / "dir").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder / "dir")], check=True)
    with Daemon(folder=folder) as running:
        yield running


def within(seconds: float, container: Container, status: str) -> bool:
    """Whether State says this in time."""
    deadline = time.monotonic() + seconds
    while container.status() != status:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_full_disk(small: Daemon) -> None:
    pod = Pod(small)
    ends = pod.with_wasm("sleep").build().start()
    stays = pod.with_wasm("sleep").build().start()
    waiter = ends.wait_later()
    with full(small.dir):
        refused = ""
        while not refused:  # the journal has some room left in its last page
            try:
                pod.with_wasm("hello").build()
            except ResourceExhausted as error:
                refused = str(error)
        assert "full" in refused
        assert stays.status() == "RUNNING"
        ends.kill(15)  # it ends, and cannot be recorded
        deadline = time.monotonic() + 10
        while "cannot be recorded" not in small.log_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(NotFound, match="the process has ended"):
            ends.kill(9)
        assert ends.status() == "RUNNING"  # until it is on record
        assert pod.api.status(pod.id).state == "SANDBOX_READY"
    assert waiter.result().exit_status == 143
    assert pod.with_wasm("exit").args("9").build().start().wait() == 9
    assert stays.status() == "RUNNING"
    pod.shutdown()
    pod.close()


def test_a_supervisor_that_begins_with_a_full_disk_forgets_nothing(small: Daemon) -> None:
    pod = Pod(small)
    runs = pod.with_wasm("sleep").build().start()
    small.kill()
    with full(small.dir):
        small.launch()
        assert small.process is not None
        try:
            small.process.wait(3)  # it may refuse to start, as systemd will see; it must not begin an empty state
        except subprocess.TimeoutExpired:
            small.kill()
        small.process = None
    small.start()
    assert not list(small.dir.glob("state.db.unfit-*"))
    assert runs.reconnect().status() == "RUNNING"
    pod.shutdown()
    pod.close()


def test_no_more_descriptors(daemon: Daemon, pod: Pod) -> None:
    assert daemon.process is not None
    supervisor = psutil.Process(daemon.process.pid)
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    created = pod.with_wasm("exit").args("4").build()
    waiter = ends.wait_later()
    runs.status()
    before = supervisor.rlimit(resource.RLIMIT_NOFILE)
    supervisor.rlimit(resource.RLIMIT_NOFILE, (supervisor.num_fds(), before[1]))
    try:
        with pytest.raises(ResourceExhausted, match="Too many open files"):
            created.start()
        assert runs.status() == "RUNNING"
        ends.kill(15)
        assert waiter.result().exit_status == 143
        # A client more cannot be let in for now. That must cost no time: not a turn of the loop after the other.
        with Connection(daemon.task_socket) as late:
            stream = late.send("State", pb.StateRequest(id=runs.id))
            used = sum(supervisor.cpu_times()[:2])
            time.sleep(2)
            assert sum(supervisor.cpu_times()[:2]) - used < 0.5
            supervisor.rlimit(resource.RLIMIT_NOFILE, before)
            assert late.receive(stream, "State").pid == runs.pid
    finally:
        supervisor.rlimit(resource.RLIMIT_NOFILE, before)
    assert created.start().wait() == 4
    pod.shutdown()


@pytest.mark.skipif(not PIDS.is_dir(), reason="control groups of version 1 only")
def test_no_more_processes(daemon: Daemon, pod: Pod) -> None:
    runs = pod.with_wasm("sleep").build().start()
    created = pod.with_wasm("exit").args("4").build()
    group = PIDS / f"exhausted{RUN}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(zygote(daemon).pid))
        (group / "pids.max").write_text("1")
        with pytest.raises(ResourceExhausted, match="no process could be forked"):
            created.start()
        assert (runs.status(), created.status()) == ("RUNNING", "CREATED")
        runs.kill(15)
        assert runs.wait() == 143
        (group / "pids.max").write_text("max")
        assert created.start().wait() == 4
    finally:
        (PIDS / "cgroup.procs").write_text(str(zygote(daemon).pid))
        group.rmdir()
    pod.shutdown()


def test_no_more_processes_for_a_new_forkserver(daemon: Daemon, pod: Pod) -> None:
    """While none can be had, starts say so; then it comes by itself."""
    if not PIDS.is_dir():
        pytest.skip("control groups of version 1 only")
    assert daemon.process is not None
    runs = pod.with_wasm("sleep").build().start()
    created = pod.with_wasm("exit").args("4").build()
    group = PIDS / f"exhausted{RUN}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(daemon.process.pid))
        (group / "pids.max").write_text("1")
        forkserver(daemon).kill()
        deadline = time.monotonic() + 10
        while "no new forkserver" not in daemon.log_text():
            assert time.monotonic() < deadline, daemon.log_text()[-3000:]
            time.sleep(0.05)
        with pytest.raises(SandboxerError, match="try again"):
            created.start()
        assert runs.status() == "RUNNING"
        (group / "pids.max").write_text("max")
        deadline = time.monotonic() + 10
        while True:
            try:
                assert created.start().wait() == 4
                break
            except SandboxerError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        pod.shutdown()
    finally:
        daemon.stop()
        for helper in daemon.helpers():
            (PIDS / "cgroup.procs").write_text(str(helper.pid))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)
