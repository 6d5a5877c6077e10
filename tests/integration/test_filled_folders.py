"""Folders full of files take long to list, unmount and remove: their own container's time, and no other client's."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.commands.pack import Reference, pack_image

from ..harness.cli import Cli
from ..harness.compiled import until
from ..harness.container import Container, Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest

MANY = 300_000
BOUND_SECONDS = 0.05


def fill(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(os.open("0", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        for number in range(1, MANY):
            os.mknod(f"{number}", dir_fd=fd)
    finally:
        os.close(fd)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of the host's."""
    folder = tmp_path / "memory"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Questions(threading.Thread):
    """Asks for the state of a container all the time; the longest that an answer took, in seconds."""

    def __init__(self, container: Container) -> None:
        super().__init__(daemon=True)
        self._container = container
        self._done = threading.Event()
        self.longest = 0.0
        self.asked = 0

    def run(self) -> None:
        while not self._done.is_set():
            began = time.monotonic()
            self._container.state()
            self.longest = max(self.longest, time.monotonic() - began)
            self.asked += 1
            time.sleep(0.001)

    def finish(self) -> float:
        self._done.set()
        self.join()
        assert self.asked > 1
        return self.longest


@contextmanager
def nobody_waits(container: Container) -> Iterator[None]:
    """An unrelated container's State answers meanwhile, long before this is done or as fast as ever."""
    idle = Questions(container)
    idle.start()
    time.sleep(0.5)
    bound = max(BOUND_SECONDS, 10 * idle.finish())
    questions = Questions(container)
    questions.start()
    began = time.monotonic()
    try:
        yield
        took = time.monotonic() - began
    finally:
        longest = questions.finish()
    assert longest < max(bound, took / 3)


def test_a_root_of_thousands_of_nested_folders_is_removed(tmp_path: Path) -> None:
    """They are deeper than Python recurses. Nor do they keep a daemon from starting."""
    image = tmp_path / "image.tar"
    pack_image(guest("nest"), Reference.parse("nest:1"), image, [], [], [])
    with Daemon() as daemon:
        cli = Cli(daemon)
        assert cli.out("run", "--rm", image, "1500") == "1500 folders\n"
        kept = cli.out("run", "-d", image, "1500").strip()
        until("its end", lambda: "stopped" in cli.out("ps", "-a"))
        daemon.kill()
        (left,) = (daemon.dir / "bundles/default").glob("*")
        left.rename(left.with_name(f".{kept}.1"))  # as where it died in the middle of that removal
        daemon.start()
        until("its removal", lambda: not list((daemon.dir / "bundles/default").glob(".*")))


@pytest.fixture
def unrelated(pod: Pod) -> Container:
    return pod.with_wasm("sleep").build().start()


@pytest.mark.parametrize("kind", ["plain", "overlay"])
def test_a_full_root_holds_up_nobody(pod: Pod, unrelated: Container, memory: Path, kind: str) -> None:
    builder = pod.with_wasm("files").process(cwd="/work").args("w here text", "r /etc/there", "r /work/here")
    for name in ("top", "upper", "work"):
        (memory / name).mkdir()
    if kind == "plain":
        builder.rootfs_mount("bind", memory / "top", "rbind")
    else:
        builder.rootfs_mount(
            "overlay", "overlay", f"lowerdir={memory}/top", f"upperdir={memory}/upper", f"workdir={memory}/work"
        )
    (memory / "top/app.wasm").write_bytes((builder.rootfs / "app.wasm").read_bytes())
    (memory / "top/etc").mkdir()
    (memory / "top/etc/there").write_text("found\n")
    fill(memory / "top")
    with nobody_waits(unrelated):
        container = builder.build().start()
        assert container.wait() == 0
        container.delete()
    assert container.stdout() == "here: written\n/etc/there: found\n/work/here: text\n"


def test_a_full_tmpfs_holds_up_nobody(pod: Pod, unrelated: Container) -> None:
    container = pod.with_wasm("hello").mount("/scratch", kind="tmpfs").build()
    (scratch,) = pod.daemon.mounts()
    fill(Path(scratch))
    container.start().wait()
    with nobody_waits(unrelated):
        container.delete()
    assert pod.daemon.mounts() == []
