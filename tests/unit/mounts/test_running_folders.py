"""Beside a running process: its own folders, and no mount is made for what it has open."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.host import linux, proc
from supervisor.oci import mount_tree, running_folders
from supervisor.oci.mount_tree import Place
from supervisor.oci.rootfs import MountPlan
from supervisor.oci.spec import Bind, Tmpfs

from ..leaks import nothing_left_open
from .mounting import planned, seen


@contextmanager
def beside_us(todo: MountPlan) -> Iterator[list[Place]]:
    """The places beside this process, which has its own open by ``seen``."""
    places = running_folders.places(todo, os.getpid(), proc.start_time(os.getpid()))
    try:
        yield places
    finally:
        for place in places:
            os.close(place.fd)


def like(fd: int) -> tuple[int, int, int]:
    return os.fstat(fd).st_dev, os.fstat(fd).st_ino, os.fstatvfs(fd).f_flag


def test_what_the_process_has_open_is_not_mounted_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, deep = str(folder / "host/folder"), str(folder / "host/folder/deep")
    todo = planned(
        folder,
        Bind("/writes", source),
        Bind("/reads", source, readonly=True),
        Bind("/deeply", deep, deep_attributes=linux.MOUNT_ATTR_RDONLY),
        Bind("/etc/hosts", str(folder / "host/file"), readonly=True),
        tmpfs=(Tmpfs("/t"), Tmpfs("/fixed", readonly=True)),
    )
    with seen(folder, todo) as places, monkeypatch.context() as patched:
        patched.setattr(mount_tree, "build", lambda plan: pytest.fail("it is built"))
        with beside_us(todo) as again:
            assert {place.path: like(place.fd) for place in again} == {
                path: like(int(link.name)) for path, link in places.items()
            }
            assert {place.path for place in again if place.readonly} == {"/reads", "/fixed"}


def test_a_folder_whose_server_is_gone_is_mounted_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = planned(folder, Bind("/data", str(folder / "host/folder")))
    real = os.fstatvfs
    with seen(folder, todo) as places, monkeypatch.context() as patched:
        gone = os.stat(places["/data"]).st_ino

        def fails(fd: int) -> os.statvfs_result:
            if os.fstat(fd).st_ino == gone:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
            return real(fd)

        patched.setattr(os, "fstatvfs", fails)
        with nothing_left_open(), beside_us(todo) as again:
            assert [os.fstat(place.fd).st_ino for place in again if place.path == "/data"] == [gone]


def test_what_it_has_not_open_is_mounted_for_the_other(folder: Path) -> None:
    first, second = Bind("/one", str(folder / "host/folder")), Bind("/two", str(folder / "host/folder/deep"))
    with seen(folder, planned(folder, first)), beside_us(planned(folder, first, second)) as places:
        assert [place.path for place in places] == ["/", "/one", "/two"]


def test_a_folder_that_is_covered_in_the_root_stays_so(folder: Path) -> None:
    (folder / "host/folder/deep/secret").touch()
    todo = planned(folder, Bind("/data", str(folder / "host/folder")), masked=("/data/deep",))
    with seen(folder, todo), beside_us(todo) as again:
        (data,) = (place.fd for place in again if place.path == "/data")
        assert os.listdir(f"/proc/self/fd/{data}/deep") == []
