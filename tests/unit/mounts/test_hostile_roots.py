"""Links in an image lead no mount out of its root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition
from supervisor.host import linux
from supervisor.oci.mount_tree import make_folders
from supervisor.oci.spec import Bind

from ...harness.compiled import until
from .mounting import planned, seen


@pytest.fixture
def base(folder: Path) -> Iterator[int]:
    """The root, with links that lead out of it were they followed outside."""
    root = folder / "rootfs"
    for name, target in {
        "absolute": str(folder / "host"),
        "up": "../host",
        "far": "../../../../../../../../etc",
        "loop": "loop",
        "good": "etc",
        "good-absolute": "/etc",
    }.items():
        (root / name).symlink_to(target)
    (root / "file").touch()
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/", "."),
        ("", "."),
        ("/a/b/c", "a/b/c"),
        ("a//b/", "a/b"),
        ("/etc/x", "etc/x"),
        ("/good/x", "etc/x"),
        ("/good-absolute/x", "etc/x"),
        ("/far/x", "etc/x"),
        ("/../../x", "x"),
        ("/a/../x", "x"),
    ],
)
def test_folders_are_made_below_the_root(folder: Path, base: int, path: str, made: str) -> None:
    fd = make_folders(base, path)
    assert os.readlink(f"/proc/self/fd/{fd}") == os.path.normpath(folder / "rootfs" / made)
    os.close(fd)


@pytest.mark.parametrize("path", ["/absolute/x", "/up/x", "/loop/x", "/file/x"])
def test_no_folder_is_made_through_a_link_that_leads_out(folder: Path, base: int, path: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(OSError, match=r"File exists|Too many levels|Not a directory"):
        make_folders(base, path)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("destination", ["/absolute/file", "/up/file", "/far/passwd", "/up/folder/deep/x"])
def test_no_mount_is_made_outside_the_root(folder: Path, base: int, destination: str) -> None:
    todo = planned(folder, Bind(destination, str(folder / "host/file")))
    before = Path("/etc/passwd").read_bytes()
    try:
        with seen(folder, todo) as places:
            if destination == "/far/passwd":
                assert (places["/"] / "etc/passwd").read_text() == "host/file"
    except FailedPrecondition:
        pass
    assert Path("/etc/passwd").read_bytes() == before
    assert (folder / "host/file").read_text() == "host/file"
    assert (folder / "host/folder/inside").exists()


def test_nothing_outside_the_root_is_masked(folder: Path, base: int) -> None:
    (folder / "rootfs/etc/inside").touch()
    todo = planned(folder, masked=("/absolute/file", "/up/file", "/loop", "/far"), readonly=("/up", "/far/passwd"))
    with seen(folder, todo) as places:
        assert (folder / "host/file").read_text() == "host/file"
        (folder / "host/new").touch()
        assert Path("/etc/passwd").read_text() != ""
        assert list((places["/"] / "etc").iterdir()) == []  # where /far leads, inside


def test_a_file_s_place_that_is_a_link_to_nothing_yet(folder: Path) -> None:
    """/etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf, in many images."""
    (folder / "rootfs/etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    with seen(folder, planned(folder, Bind("/etc/resolv.conf", str(folder / "host/file")))) as places:
        assert (places["/"] / "run/systemd/resolve/stub-resolv.conf").read_text() == "host/file"


def test_a_machine_that_renames_all_the_time_keeps_no_mount_back(folder: Path) -> None:
    """The kernel refuses a path with ``..`` meanwhile, and wants to be asked again."""
    (folder / "rootfs/a/b").mkdir(parents=True)
    (folder / "rootfs/file").touch()
    names = [str(folder / name) for name in ("one", "other")]
    Path(names[0]).touch()
    renaming = f"import os\nwhile True: os.rename(*{names}), os.rename(*{names[::-1]})"
    base = os.open(folder / "rootfs", os.O_PATH)
    with subprocess.Popen([sys.executable, "-c", renaming]) as process:
        try:
            until("it renames", lambda: Path(names[1]).exists())
            for _ in range(5000):
                os.close(linux.open_in_root(base, "a/b/../../a/b/../../a/b/../../file", os.O_PATH))
        finally:
            process.kill()
            os.close(base)
