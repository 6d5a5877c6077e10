"""A guest that has broken out of WebAssembly reaches the files it was given, and no other."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.confinement import landlock

from ...harness.bare_forkserver import (
    ROOT,
    BareForkserver,
    neighbour,
    refused,
)


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("/etc/shadow", os.O_RDONLY),
        ("/etc/passwd", os.O_RDONLY),
        ("/proc/1/environ", os.O_RDONLY),
        ("/proc/self/environ", os.O_RDONLY),
        ("/proc/self/mem", os.O_RDWR),
        ("/proc/self/root/etc/shadow", os.O_RDONLY),
        ("/sys/kernel/uevent_helper", os.O_RDONLY),
        ("/dev/mem", os.O_RDONLY),
        ("/dev/null", os.O_RDONLY),
        ("/", os.O_RDONLY | os.O_DIRECTORY),
        ("/proc", os.O_RDONLY | os.O_DIRECTORY),
        ("/tmp/planted", os.O_CREAT | os.O_WRONLY),
        ("/etc/passwd", os.O_WRONLY | os.O_TRUNC),
    ],
)
def test_files_of_the_host_are_out_of_reach(
    forkserver: BareForkserver, landlocked: BareForkserver, folders: list[tuple[Path, bool]], path: str, flags: int
) -> None:
    there = os.path.exists(path) or flags & os.O_CREAT
    for made, error in (
        (forkserver, "EACCES" if path == "/" else "ENOENT"),
        (landlocked, "EACCES" if there else "ENOENT"),
    ):
        assert refused(made.run("open", "-", path, str(flags), folders=folders)) == error


def test_a_preopen_has_no_way_up(
    forkserver: BareForkserver, landlocked: BareForkserver, folders: list[tuple[Path, bool]]
) -> None:
    (folders[0][0] / "link").symlink_to("/etc/passwd")
    for path in ("../outside", "link", os.path.relpath("/etc/passwd", folders[0][0])):
        for made in (forkserver, landlocked):
            outcome = refused(made.run("open", "0", path, str(os.O_RDWR | os.O_CREAT), folders=folders))
            assert outcome == ("ENOENT" if (made, path) == (forkserver, "link") else "EACCES")


def test_the_preopens_are_usable_as_their_mounts_say(
    forkserver: BareForkserver, folders: list[tuple[Path, bool]]
) -> None:
    read, write, create = str(os.O_RDONLY), str(os.O_WRONLY), str(os.O_CREAT | os.O_WRONLY)
    assert refused(forkserver.run("open", "0", "file", read, folders=folders)) == "done 1"
    assert refused(forkserver.run("open", "0", "sub/new", create, folders=folders)) == "done"
    assert refused(forkserver.run("truncate", "0", "file", folders=folders)) == "done 3"
    assert refused(forkserver.run("rename", "0", "sub/new", "0", "new", folders=folders)) == "done"
    assert refused(forkserver.run("link", "0", "new", "0", "sub/new", folders=folders)) == "done"
    assert refused(forkserver.run("open", "1", "file", read, folders=folders)) == "done 1"
    assert refused(forkserver.run("open", "1", "file", write, folders=folders)) == "EACCES"
    assert refused(forkserver.run("open", "1", "new", create, folders=folders)) == "EACCES"
    assert refused(forkserver.run("truncate", "1", "file", folders=folders)) == "EACCES"
    assert refused(forkserver.run("rename", "1", "file", "1", "other", folders=folders)) == "EACCES"
    assert refused(forkserver.run("rename", "1", "file", "0", "taken", folders=folders)) == "EACCES"
    assert refused(forkserver.run("rename", "0", "file", "1", "given", folders=folders)) == "EACCES"
    # What may not be written there must not become writable by a second name here.
    assert refused(forkserver.run("link", "1", "file", "0", "second", folders=folders)) == "EXDEV"


def test_only_its_own_descriptors_are_left(forkserver: BareForkserver, folders: list[tuple[Path, bool]]) -> None:
    # Streams, and the two folders that the engine opened; Wasmtime has opened them, too, and keeps its product.
    assert refused(forkserver.run("own_fds", folders=folders)) == ("done 8" if forkserver.threads else "done 5")


def test_a_module_that_is_on_no_mount(forkserver: BareForkserver) -> None:
    memory = os.memfd_create("module")
    os.write(memory, forkserver.module)
    outcome = forkserver.run("own_fds", module=Path(f"/proc/self/fd/{memory}"))
    os.close(memory)
    assert refused(outcome) == ("done 4" if forkserver.threads else "done 3")


OLDER_KERNEL = """
import os, sys
from workers import linux
from workers.calls.call_list import CallList, Runner
from workers.confinement import landlock
landlock.abi = lambda: int(sys.argv[1])
folder = os.open(sys.argv[2], os.O_PATH)
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
shut = CallList()
landlock.Landlock().restrict(shut, [(folder, False)], [], False)
Runner().perform(shut)
for attempt in (
    lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
    lambda: os.close(os.open("file", os.O_RDWR | os.O_TRUNC, dir_fd=folder)),
    lambda: os.rename("file", "other", src_dir_fd=folder, dst_dir_fd=folder),
    lambda: os.rename("other", "sub/other", src_dir_fd=folder, dst_dir_fd=folder),
):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.parametrize("abi", range(1, landlock.abi() + 1))
def test_rules_for_older_kernels(folders: list[tuple[Path, bool]], abi: int) -> None:
    """As that kernel would be asked; this one, asked for less, gives less."""
    command = [sys.executable, "-c", OLDER_KERNEL, str(abi), str(folders[0][0])]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    between_folders = str(errno.EXDEV) if abi == 1 else "done"
    assert said == [str(errno.EACCES), "done", "done", between_folders]


@pytest.mark.parametrize("what", ["environ", "mem", "fd/1", "root/etc/passwd", "maps"])
def test_a_neighbour_is_out_of_reach(forkserver: BareForkserver, landlocked: BareForkserver, what: str) -> None:
    for made, error in ((forkserver, "ENOENT"), (landlocked, "EACCES")):
        with neighbour(made) as other:
            assert refused(made.run("open", "-", f"/proc/{other.pid}/{what}", str(os.O_RDONLY))) == error
        other.wait()
