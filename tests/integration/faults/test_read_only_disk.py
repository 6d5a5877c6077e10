"""A disk of --dir that is read-only: changes of the state fail and say so, all else goes on."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.errors import Internal

from ...harness.container import Container, Pod
from ...harness.daemon import Daemon
from ...harness.mkfs import mkfs_ext4

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602  # ioctl_iflags(2)
FS_IMMUTABLE_FL = 0x10
REFUSED = r"state\.db: .* is its disk read-only, full or failing\?"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon whose --dir is a file system of its own."""
    folder = Path(tempfile.mkdtemp(prefix="wasm-sb-"))
    image, place = folder / "image", folder / "dir"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run([mkfs_ext4(), "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    with Daemon(folder=folder) as running:
        yield running


def set_immutable(folder: Path, wanted: bool) -> None:
    """Nothing below it can be written, made or removed, not even through descriptors that are open (ext4)."""
    for path in (*sorted(folder.glob("**/*")), folder):
        if path.is_dir() or (path.is_file() and path.suffix != ".db-shm"):  # that one is memory more than disk
            fd = os.open(path, os.O_RDONLY)
            (flags,) = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("l", 0)))
            flags = flags | FS_IMMUTABLE_FL if wanted else flags & ~FS_IMMUTABLE_FL
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags))
            os.close(fd)


def must_not_be_writable(daemon: Daemon, number: int) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        (daemon.dir / "probe").write_text("x")


def changes_fail_and_the_rest_goes_on(daemon: Daemon, pod: Pod, runs: Container, ends: Container) -> None:
    for _ in range(2):
        with pytest.raises(Internal, match=REFUSED):
            pod.with_wasm("hello").build()
        with pytest.raises(Internal, match=REFUSED):
            pod.api.create("other")
    ends.kill(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while "cannot be recorded" not in daemon.log_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (runs.status(), pod.api.status(pod.id).state) == ("RUNNING", "SANDBOX_READY")


def test_a_disk_that_becomes_read_only(daemon: Daemon) -> None:
    pod = Pod(daemon)
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    subprocess.run(["mount", "-o", "remount,abort", str(daemon.dir)], check=True)
    must_not_be_writable(daemon, errno.EROFS)
    changes_fail_and_the_rest_goes_on(daemon, pod, runs, ends)
    pod.close()


def test_a_disk_that_is_read_only_for_a_while(daemon: Daemon) -> None:
    pod = Pod(daemon)
    runs, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    waiter = ends.wait_later().arrived()
    set_immutable(daemon.dir, True)
    try:
        must_not_be_writable(daemon, errno.EPERM)
        changes_fail_and_the_rest_goes_on(daemon, pod, runs, ends)
    finally:
        set_immutable(daemon.dir, False)
    assert waiter.result().exit_status == 143
    assert pod.with_wasm("exit").args("9").build().start().wait() == 9
    daemon.kill()
    daemon.start()
    assert [runs.reconnect().status(), ends.reconnect().status()] == ["RUNNING", "STOPPED"]
    assert not list(daemon.dir.glob("*.unfit-*"))
    pod.shutdown()
    pod.close()


def test_a_supervisor_that_begins_on_it_refuses_and_forgets_nothing(daemon: Daemon) -> None:
    pod = Pod(daemon)
    runs = pod.with_wasm("sleep").build().start()
    daemon.kill()
    subprocess.run(["mount", "-o", "remount,ro", str(daemon.dir)], check=True)
    must_not_be_writable(daemon, errno.EROFS)
    daemon.launch()
    assert daemon.process is not None
    assert daemon.process.wait(30) != 0
    daemon.process = None
    assert "Read-only file system" in daemon.log_text()
    subprocess.run(["mount", "-o", "remount,rw", str(daemon.dir)], check=True)
    daemon.start()
    assert runs.reconnect().status() == "RUNNING"
    pod.shutdown()
    pod.close()
