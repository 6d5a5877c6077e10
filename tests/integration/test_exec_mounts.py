"""An exec has the mounts of the container that it is in."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.container import Container, Pod
from ..harness.guests import guest

_numbers = itertools.count(1)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file in a folder, which is mounted over later."""
    folder = tmp_path / "volume"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("before")
    yield folder
    subprocess.run(["umount", folder / "sub"], check=False, capture_output=True)


def mount_over(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "later", folder], check=True)
    (folder / "file").write_text("later")


def running(pod: Pod, volume: Path, **binds: tuple[str, ...]) -> Container:
    """A container that sleeps, with the volume bound by these options in folders of these names."""
    builder = pod.with_wasm("sleep")
    shutil.copy(guest("files"), builder.rootfs / "files.wasm")
    for name, options in binds.items():
        builder = builder.mount(f"/{name}", volume, options=options)
    return builder.build().start()


def said(container: Container, *lines: str) -> list[str]:
    """What an exec of ``files`` says to these lines."""
    name = f"said{next(_numbers)}"
    container.add_exec(name, "/files.wasm", *lines).start(name)
    assert container.wait(name) == 0
    return [line.partition(": ")[2] for line in (container.bundle / f"{name}.out").read_text().splitlines()]


@pytest.mark.parametrize("options", [("rw",), ("ro",), ("rro",)])
def test_what_is_mounted_later_is_not_seen(pod: Pod, volume: Path, options: tuple[str, ...]) -> None:
    container = running(pod, volume, data=options)
    mount_over(volume / "sub")
    assert said(container, "r /data/sub/file") == ["before"]
    assert said(container, "w /data/new x") == ["written" if options == ("rw",) else "Read-only file system"]


def test_two_binds_of_one_folder_stay_what_they_are(pod: Pod, volume: Path) -> None:
    container = running(pod, volume, reads=("ro",), writes=("rw",))
    mount_over(volume / "sub")
    assert said(container, "w /reads/new x", "w /writes/new x") == ["Read-only file system", "written"]
    assert said(container, "r /reads/sub/file", "r /writes/sub/file") == ["before", "before"]
