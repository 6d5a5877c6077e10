"""Mounts are planned from the spec, named ones made and undone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument, OutOfDescriptors
from sandbox_api.interface import Mount
from supervisor.host import linux
from supervisor.oci import bundle, rootfs
from supervisor.oci.rootfs import mount, plan, unmount
from supervisor.oci.spec import Bind, ProcessSpec, Spec, Tmpfs

from .mounting import mounts, planned, seen, take_down


@pytest.mark.parametrize(
    ("binds", "mounted"),
    [
        ([], []),
        ([("/data", "folder")], []),
        ([("/etc/hosts", "file")], ["/etc/hosts"]),
        ([("/data", "folder"), ("/etc/hosts", "file")], ["/etc/hosts"]),
        ([("/etc", "folder"), ("/etc/hosts", "file")], ["/etc", "/etc/hosts"]),
        ([("/etc/hosts", "file"), ("/etc", "folder")], ["/etc", "/etc/hosts"]),
        ([("/a/b/f", "file"), ("/a/b", "folder"), ("/a", "folder")], ["/a", "/a/b", "/a/b/f"]),
        ([("/a", "folder"), ("/ab/f", "file")], ["/ab/f"]),
        ([("/a/b", "folder"), ("/a/f", "file")], ["/a/f"]),
    ],
)
def test_files_are_mounted_and_folders_only_where_they_hold_one(
    folder: Path, binds: list[tuple[str, str]], mounted: list[str]
) -> None:
    asked = [Bind(destination, str(folder / "host" / source)) for destination, source in binds]
    assert list(planned(folder, *asked).inner) == mounted


def test_the_plan_says_where(folder: Path) -> None:
    rootfs = (Mount("overlay", "overlay", "", ("lowerdir=/l",)),)
    todo = planned(folder, rootfs=rootfs, tmpfs=(Tmpfs("/t"), Tmpfs("/u")))
    assert (todo.root, todo.rootfs) == (f"{folder}/own/rootfs", rootfs)
    assert [todo.tmpfs_path(number) for number in range(2)] == [f"{folder}/own/0", f"{folder}/own/1"]


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("rootfs", "rootfs"),
        ("./rootfs/", "rootfs"),
        ("link", "rootfs"),
        ("{folder}/rootfs", "rootfs"),
        ("../{name}/rootfs", "rootfs"),
    ],
)
def test_the_root_may_be_named_in_many_ways(folder: Path, path: str, root: str) -> None:
    (folder / "link").symlink_to("rootfs")
    named = bundle.root(str(folder), path.format(folder=folder, name=folder.name))
    assert plan(Spec(ProcessSpec(("a",)), path), named, (), "", "").root == str(folder / root)


@pytest.mark.parametrize("path", ["/", "host-root", "host-root/usr/.."])
def test_the_hosts_root_is_none(folder: Path, path: str) -> None:
    (folder / "host-root").symlink_to("/")
    with pytest.raises(InvalidArgument, match="the host's root file system"):
        plan(Spec(ProcessSpec(("a",)), path), bundle.root(str(folder), path), (), "", "")


def test_invalid_mounts_are_not_planned(folder: Path) -> None:
    spec = Spec(ProcessSpec(("a",)), "rootfs")
    with pytest.raises(InvalidArgument, match="the host's root file system"):
        plan(spec, "/", (), "", "")
    with pytest.raises(InvalidArgument, match=r"root\.path /gone: no such folder"):
        plan(spec, "/gone", (), "", "")
    with pytest.raises(InvalidArgument, match="/data: source '/gone' does not exist"):
        planned(folder, Bind("/data", "/gone"))


def test_a_want_of_descriptors_is_no_fault_of_the_root_file_system(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(place: int, recursive: bool) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(linux, "clone_mount", scarce)
    with pytest.raises(OutOfDescriptors, match="rootfs: mounting bind"):
        mount(planned(folder, rootfs=[Mount("bind", str(folder / "host/folder"))]))


def test_a_want_of_descriptors_is_no_fault_of_a_bind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(folder: str) -> bool:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(rootfs, "has_mounts", scarce)
    with pytest.raises(OutOfDescriptors):
        planned(folder, Bind("/data", str(folder / "host/folder"), readonly=True))


def test_a_file_in_a_tmpfs(folder: Path) -> None:
    with seen(folder, planned(folder, Bind("/t/file", str(folder / "host/file")), tmpfs=(Tmpfs("/t"),))) as places:
        assert (places["/t"] / "file").read_text() == "host/file"


def test_a_tmpfs_of_each_container_s_own(folder: Path) -> None:
    tmpfs = (Tmpfs("/t", data="size=64k"), Tmpfs("/u"))
    todo = planned(folder, tmpfs=tmpfs)
    mount(todo)
    assert mounts(folder) == ["own/0", "own/1"]
    assert os.statvfs(todo.tmpfs_path(0)).f_blocks * 4096 == 65536
    unmount(todo)
    assert not (folder / "own").exists()


def test_the_root_file_system_is_mounted_as_asked(folder: Path) -> None:
    rootfs = [Mount("bind", str(folder / "host/folder"), "", ("rbind", "ro", "rprivate"))]
    todo = planned(folder, rootfs=rootfs)
    mount(todo)
    assert mounts(folder) == ["own/rootfs"]  # and nothing on the client's
    assert (folder / "own/rootfs/inside").exists()
    with pytest.raises(OSError, match="Read-only"):
        (folder / "own/rootfs/new").touch()
    unmount(todo)
    assert not (folder / "own").exists()


def test_unmounting_what_was_never_mounted_and_twice(folder: Path) -> None:
    hosts = Bind("/etc/hosts", str(folder / "host/file"))
    rootfs = [Mount("bind", str(folder / "host/folder"))]
    for todo in (
        planned(folder),
        planned(folder, hosts),
        planned(folder, hosts, rootfs=rootfs),
        planned(folder, tmpfs=[Tmpfs("/t")]),
    ):
        unmount(todo)
        mount(todo)
        unmount(todo)
        unmount(todo)
        assert mounts(folder) == []


REFUSED_ROOTFS = [
    ([Mount("bind", "/gone")], FailedPrecondition, "mounting bind /gone on .*/rootfs: No such file"),
    ([Mount("nosuchfs", "x")], FailedPrecondition, "mounting nosuchfs x on .*/rootfs: No such device"),
    ([Mount("ext4", "/dev/x", "", ("loop",))], InvalidArgument, "unsupported loop mount"),
    ([Mount("tmpfs", "tmpfs"), Mount("bind", "/gone")], FailedPrecondition, "mounting bind /gone"),
    ([Mount("tmpfs", "tmpfs"), Mount("tmpfs", "tmpfs", "gone")], FailedPrecondition, "mounting gone"),
]


@pytest.mark.parametrize(("rootfs", "error", "match"), REFUSED_ROOTFS)
def test_a_root_file_system_that_cannot_be_mounted(
    folder: Path, rootfs: list[Mount], error: type[Exception], match: str
) -> None:
    todo = planned(folder, rootfs=rootfs)
    with pytest.raises(error, match=match):
        mount(todo)
    assert mounts(folder) == []


def test_mounts_of_the_client_stay(folder: Path) -> None:
    """A failed Create unmounts twice: in ``mount``, and in its caller."""
    linux.mount("tmpfs", str(folder / "rootfs"), "tmpfs", 0)
    try:
        todo = planned(folder, rootfs=[Mount("bind", "/gone")])
        with pytest.raises(FailedPrecondition):
            mount(todo)
        unmount(todo)
    finally:
        left = take_down(folder)
    assert left == ["rootfs"]
