"""A process sees the mounts of its container, each in its place and with its options."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition
from supervisor.host import linux
from supervisor.oci import mount_tree
from supervisor.oci.mount_tree import build
from supervisor.oci.rootfs import mount, unmount
from supervisor.oci.spec import Bind, Tmpfs

from .mounting import mounts, planned, seen


def test_files_and_folders_are_seen_in_their_places(folder: Path) -> None:
    (folder / "host/folder/hosts").touch()
    binds = [Bind("/etc", str(folder / "host/folder")), Bind("/etc/hosts", str(folder / "host/file"), readonly=True)]
    with seen(folder, planned(folder, *binds)) as places:
        for etc in (places["/"] / "etc", places["/etc"]):
            assert (etc / "hosts").read_text() == "host/file"
            assert (etc / "inside").read_text() == "host/folder/inside"
        (places["/etc"] / "deep/new").touch()
        with pytest.raises(OSError, match="Read-only"):
            (places["/etc"] / "hosts").write_text("x")
        assert list((folder / "rootfs/etc").iterdir()) == []
    assert (folder / "host/folder/hosts").read_text() == ""


def test_places_that_the_image_lacks_are_made(folder: Path) -> None:
    with seen(folder, planned(folder, Bind("/run/deep/file", str(folder / "host/file")))) as places:
        assert (places["/"] / "run/deep/file").read_text() == "host/file"


def test_a_read_only_root_takes_mounts_and_nothing_else(folder: Path) -> None:
    (folder / "rootfs/app").touch()
    with seen(folder, planned(folder, Bind("/run/file", str(folder / "host/file")), root_readonly=True)) as places:
        (places["/"] / "run/file").write_text("new")
        for path in ("app", "run/other"):
            with pytest.raises(OSError, match="Read-only"):
                (places["/"] / path).write_text("x")
    assert (folder / "host/file").read_text() == "new"


def test_nothing_leads_up_out_of_a_mount(folder: Path) -> None:
    todo = planned(folder, Bind("/data", str(folder / "host/folder")), tmpfs=(Tmpfs("/t"),))
    with seen(folder, todo) as places:
        for place in places.values():
            assert (place / "../../..").stat().st_ino == place.stat().st_ino


def test_options_are_kept_and_devices_and_set_user_ids_never_work(folder: Path) -> None:
    source = folder / "host/folder"
    linux.mount("tmpfs", str(source), "tmpfs", linux.MS_NOATIME)
    try:
        binds = [
            Bind("/plain", str(source)),
            Bind("/fixed", str(source), readonly=True, attributes=linux.MOUNT_ATTR_NOSYMFOLLOW),
        ]
        with seen(folder, planned(folder, *binds)) as places:
            flags = {path: os.statvfs(place).f_flag for path, place in places.items()}
        always = os.ST_NODEV | os.ST_NOSUID | os.ST_NOEXEC
        assert flags["/"] & always == always
        assert flags["/plain"] & (always | os.ST_NOATIME | os.ST_RDONLY) == always | os.ST_NOATIME
        assert flags["/fixed"] & (os.ST_RDONLY | os.ST_NOEXEC | 0x2000) == os.ST_RDONLY | os.ST_NOEXEC | 0x2000
    finally:
        linux.detach(str(source))


def test_mounts_below_a_source_come_along_where_that_is_asked(folder: Path) -> None:
    linux.mount("tmpfs", str(folder / "host/folder/deep"), "tmpfs", 0)
    (folder / "host/folder/deep/below").touch()
    source = str(folder / "host/folder")
    try:
        with seen(folder, planned(folder, Bind("/all", source), Bind("/one", source, recursive=False))) as places:
            assert (places["/all"] / "deep/below").exists()
            assert os.statvfs(places["/all"] / "deep").f_flag & os.ST_NODEV
            assert not (places["/one"] / "deep/below").exists()
    finally:
        linux.detach(str(folder / "host/folder/deep"))


def test_a_link_in_place_of_a_source_is_not_followed_later(folder: Path) -> None:
    (folder / "host/link").symlink_to("folder")
    todo = planned(folder, Bind("/data", str(folder / "host/link")))
    with seen(folder, todo) as places:
        assert (places["/data"] / "inside").exists()
    (folder / "host/folder").rename(folder / "host/moved")
    (folder / "host/folder").symlink_to("/etc")
    with pytest.raises(FailedPrecondition, match="on /data: Too many levels of symbolic links"):
        build(todo)
    (folder / "host/folder").unlink()


def test_masked_and_read_only_paths(folder: Path) -> None:
    root = folder / "rootfs"
    for path in ("etc/secret", "private/inside", "fixed/inside"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("x")
    todo = planned(folder, masked=("/etc/secret", "/private", "/gone"), readonly=("/fixed", "/gone/too"))
    with seen(folder, todo) as places:
        inside = places["/"]
        assert (inside / "etc/secret").read_text() == ""
        assert list((inside / "private").iterdir()) == []
        with pytest.raises(OSError, match="Read-only"):
            (inside / "private/new").touch()
        with pytest.raises(OSError, match="Read-only"):
            (inside / "fixed/inside").write_text("y")
        (inside / "etc/other").touch()
    assert [(root / path).read_text() for path in ("etc/secret", "private/inside", "fixed/inside")] == ["x"] * 3


def test_a_masked_path_in_a_folder_that_is_bound(folder: Path) -> None:
    with seen(folder, planned(folder, Bind("/data", str(folder / "host")), masked=("/data/file",))) as places:
        assert (places["/data"] / "file").read_text() == ""


def test_masked_and_read_only_paths_in_a_tmpfs(folder: Path) -> None:
    binds = [Bind(f"/t/{name}", str(folder / "host/folder")) for name in ("a", "b")]
    tmpfs = [Tmpfs(path) for path in ("/t", "/u", "/v")]
    todo = planned(folder, *binds, tmpfs=tmpfs, masked=("/t/a/inside", "/u"), readonly=("/t/b", "/v"))
    with seen(folder, todo) as places:
        assert (places["/t/a"] / "inside").read_text() == (places["/t"] / "a/inside").read_text() == ""
        (places["/t"] / "new").touch()
        for path in (places["/t/b"], places["/t"] / "b", places["/u"], places["/v"]):
            with pytest.raises(OSError, match="Read-only"):
                (path / "new").touch()


@pytest.mark.parametrize("number", range(3))
def test_nothing_stays_open_where_descriptors_run_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    todo = planned(folder, tmpfs=[Tmpfs("/t"), Tmpfs("/u")])
    for tmpfs in todo.tmpfs:
        (folder / "rootfs" / tmpfs.destination[1:]).mkdir()
    mount(todo)
    duplicated: list[int] = []

    def scarce(fd: int) -> int:
        if len(duplicated) == number:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        duplicated.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC))
        return duplicated[-1]

    with monkeypatch.context() as patched:
        patched.setattr(mount_tree, "_show", lambda *_: None)
        patched.setattr(os, "dup", scarce)
        with pytest.raises(OSError, match="Too many open files"):
            build(todo)
    unmount(todo)
    assert len(duplicated) == number


def test_mounts_before_a_failure_are_undone(folder: Path) -> None:
    binds = (Bind("/a", str(folder / "host/file")), Bind("/etc", str(folder / "host/file")))
    with pytest.raises(FailedPrecondition, match=r"on /etc: "):
        build(planned(folder, *binds))
    with pytest.raises(FailedPrecondition, match=r"own/1: "):
        mount(planned(folder, binds[0], tmpfs=[Tmpfs("/t"), Tmpfs("/u", data="size=lots")]))
    assert mounts(folder) == []


def test_leftovers_of_a_supervisor_are_cleared(folder: Path) -> None:
    left = folder / "mounting/bench/left"
    left.mkdir()
    linux.mount("tmpfs", str(left), "tmpfs", 0)
    mount_tree.prepare(str(folder / "mounting"))
    assert mounts(folder) == []
    assert not left.exists()
