"""Options of bind mounts: read-only by itself and with all below, and propagation, which there is none of."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument

from ..harness.container import Pod


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A folder with another file system in it."""
    folder = tmp_path / "with a space"
    inner = folder / "sub"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "inner", inner], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", inner], check=True)


@pytest.mark.parametrize(
    ("options", "inner"),
    [(("rbind", "ro"), "written"), (("rbind", "rro"), "Read-only file system"), (("rbind", "rw"), "written")],
)
def test_read_only_and_recursively_so_are_two_things(
    pod: Pod, nested: Path, options: tuple[str, ...], inner: str
) -> None:
    builder = pod.with_wasm("files").args("w /data/file x", "w /data/sub/file x")
    container = builder.mount("/data", nested, options=options).build().start()
    assert container.wait() == 0
    outer = "written" if "rw" in options else "Read-only file system"
    assert container.stdout().splitlines() == [f"/data/file: {outer}", f"/data/sub/file: {inner}"]


def test_nothing_below_a_read_only_mount_is_an_open_door(pod: Pod, nested: Path) -> None:
    """What is mounted below is writable, and still holds no device, no program and no other user's rights."""
    builder = pod.with_wasm("files").args("w /data/sub/null x")
    subprocess.run(["mknod", nested / "sub" / "null", "c", "1", "3"], check=True)
    container = builder.mount("/data", nested, options=("rbind", "ro")).build().start()
    assert container.wait() == 0
    assert container.stdout() == "/data/sub/null: Permission denied\n"


def test_a_read_only_folder_says_so(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    lines = ["w /data/file x", "w /data/new x", "m /data/folder/new", "r /data/file"]
    container = pod.with_wasm("files").args(*lines).mount("/data", tmp_path, options=("ro",)).build().start()
    assert container.wait() == 0
    said = [line.partition(": ")[2] for line in container.stdout().splitlines()]
    assert said == ["Read-only file system"] * 3 + ["old"]


@pytest.mark.parametrize("option", ["slave", "rslave", "shared", "rshared"])
def test_propagation_is_refused_with_its_reason(pod: Pod, tmp_path: Path, option: str) -> None:
    builder = pod.with_wasm("files").mount("/data", tmp_path, options=("rbind", option))
    with pytest.raises(InvalidArgument, match=rf"/data: mount propagation \({option}\) is not supported"):
        builder.build()


def test_a_source_may_be_relative_to_the_bundle(pod: Pod) -> None:
    builder = pod.with_wasm("files").args("r /data/file").mount("/data", "its own")
    folder = builder.bundle / "its own"
    folder.mkdir()
    (folder / "file").write_text("of the bundle")
    container = builder.build().start()
    assert container.wait() == 0
    assert container.stdout() == "/data/file: of the bundle\n"
