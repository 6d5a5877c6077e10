"""What is mounted for a container: planned from its spec, made inside its root only, and taken down again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.interface import Mount
from supervisor.host import linux
from supervisor.oci import bundle
from supervisor.oci.rootfs import MountPlan, make_folders, mount, plan, unmount
from supervisor.oci.spec import Bind, ProcessSpec, Spec, Tmpfs
from supervisor.oci.wasi import assemble

from .leaks import nothing_left_open


def mounts(below: Path) -> list[str]:
    """Mount points below a folder, or it itself, relative to it: once for each mount."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(os.path.relpath(point, below) for point in points if Path(point).is_relative_to(below))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A bundle's folder with ``rootfs``, and ``host`` with what may be mounted in it. No mount is left in it."""
    for path in ("rootfs/etc", "host/folder/deep"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("host/file", "host/folder/inside"):
        (tmp_path / path).write_text(path)
    with nothing_left_open():
        yield tmp_path
        assert take_down(tmp_path) == []


def take_down(folder: Path) -> list[str]:
    """Unmount whatever is mounted there; what that was."""
    found = []
    while left := mounts(folder):
        found.append(left[-1])
        linux.detach(str(folder / left[-1]))
    return found


def planned(
    folder: Path, *binds: Bind, rootfs: Sequence[Mount] = (), tmpfs: Sequence[Tmpfs] = (), **members: Any
) -> MountPlan:
    """The plan for a container with these mounts, and other members of its spec."""
    spec = Spec(ProcessSpec(("a",)), "rootfs", binds=binds, tmpfs=tuple(tmpfs), **members)
    return plan(spec, str(folder / "rootfs"), rootfs, str(folder / "tmpfs"))


# Planning


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
    assert [bind.destination for bind in planned(folder, *asked).binds] == mounted


def test_the_plan_says_where(folder: Path) -> None:
    rootfs = (Mount("overlay", "overlay", "", ("lowerdir=/l",)),)
    todo = planned(folder, rootfs=rootfs, tmpfs=(Tmpfs("/t"), Tmpfs("/u")))
    assert (todo.root, todo.rootfs) == (str(folder / "rootfs"), rootfs)
    assert [todo.tmpfs_path(number) for number in range(2)] == [f"{folder}/tmpfs/0", f"{folder}/tmpfs/1"]


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("rootfs", "rootfs"),
        ("./rootfs/", "rootfs"),
        ("link", "rootfs"),
        ("{folder}/rootfs", "rootfs"),
        ("../{name}/rootfs", "rootfs"),
        ("/", "/"),
        ("host-root", "/"),
    ],
)
def test_the_root_may_be_named_in_many_ways(folder: Path, path: str, root: str) -> None:
    (folder / "link").symlink_to("rootfs")
    (folder / "host-root").symlink_to("/")
    assert bundle.root(str(folder), path.format(folder=folder, name=folder.name)) == str(folder / root)


def test_what_cannot_be_is_not_planned(folder: Path) -> None:
    spec = Spec(ProcessSpec(("a",)), "rootfs")
    with pytest.raises(InvalidArgument, match="the host's root file system"):
        plan(spec, "/", (), "")
    with pytest.raises(InvalidArgument, match=r"root\.path /gone: no such folder"):
        plan(spec, "/gone", (), "")
    with pytest.raises(InvalidArgument, match="/data: source '/gone' does not exist"):
        planned(folder, Bind("/data", "/gone"))


def test_a_file_in_a_tmpfs(folder: Path) -> None:
    todo = planned(folder, Bind("/t/file", str(folder / "host/file")), tmpfs=(Tmpfs("/t"),))
    mount(todo)
    try:
        assert Path(todo.tmpfs_path(0), "file").read_text() == "host/file"
    finally:
        unmount(todo)


# Mounting


def test_files_and_folders_are_seen_in_their_places(folder: Path) -> None:
    (folder / "host/folder/hosts").touch()
    binds = [Bind("/etc", str(folder / "host/folder")), Bind("/etc/hosts", str(folder / "host/file"), readonly=True)]
    todo = planned(folder, *binds)
    mount(todo)
    assert (folder / "rootfs/etc/hosts").read_text() == "host/file"
    assert (folder / "rootfs/etc/inside").read_text() == "host/folder/inside"
    (folder / "rootfs/etc/deep/new").touch()
    with pytest.raises(OSError, match="Read-only"):
        (folder / "rootfs/etc/hosts").write_text("x")
    unmount(todo)
    assert list((folder / "rootfs/etc").iterdir()) == []
    assert (folder / "host/folder/hosts").read_text() == ""


def test_places_that_the_image_lacks_are_made(folder: Path) -> None:
    todo = planned(folder, Bind("/run/deep/file", str(folder / "host/file")))
    mount(todo)
    assert (folder / "rootfs/run/deep/file").read_text() == "host/file"
    unmount(todo)


def test_a_tmpfs_of_each_container_s_own(folder: Path) -> None:
    tmpfs = (Tmpfs("/t", data="size=64k"), Tmpfs("/u"))
    todo = planned(folder, tmpfs=tmpfs)
    mount(todo)
    assert mounts(folder) == ["tmpfs/0", "tmpfs/1"]
    assert os.statvfs(todo.tmpfs_path(0)).f_blocks * 4096 == 65536
    unmount(todo)
    assert not (folder / "tmpfs").exists()


def test_masked_and_read_only_paths(folder: Path) -> None:
    root = folder / "rootfs"
    for path in ("etc/secret", "private/inside", "fixed/inside"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("x")
    todo = planned(folder, masked=("/etc/secret", "/private", "/gone"), readonly=("/fixed", "/gone/too"))
    mount(todo)
    assert (root / "etc/secret").read_text() == ""
    assert list((root / "private").iterdir()) == []
    with pytest.raises(OSError, match="Read-only"):
        (root / "private/new").touch()
    with pytest.raises(OSError, match="Read-only"):
        (root / "fixed/inside").write_text("y")
    unmount(todo)
    assert [(root / path).read_text() for path in ("etc/secret", "private/inside", "fixed/inside")] == ["x"] * 3


def test_a_masked_path_in_a_folder_that_is_bound(folder: Path) -> None:
    (folder / "rootfs/app.wasm").touch()
    spec = Spec(
        ProcessSpec(("/app.wasm",)), "rootfs", binds=(Bind("/data", str(folder / "host")),), masked=("/data/file",)
    )
    todo = plan(spec, str(folder / "rootfs"), (), "")
    mount(todo)
    world = assemble(spec, spec.process, todo)
    try:
        (data,) = (fd for preopen, fd in zip(world.preopens, world.folders, strict=True) if preopen.path == b"/data")
        with open(f"/proc/self/fd/{data}/file") as file:
            assert file.read() == ""
    finally:
        world.close()
        unmount(todo)


def test_the_root_file_system_is_mounted_as_asked(folder: Path) -> None:
    rootfs = [Mount("bind", str(folder / "host/folder"), "", ("rbind", "ro", "rprivate"))]
    todo = planned(folder, rootfs=rootfs)
    mount(todo)
    assert (folder / "rootfs/inside").exists()
    with pytest.raises(OSError, match="Read-only"):
        (folder / "rootfs/new").touch()
    unmount(todo)


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
    ([Mount("ext4", "/dev/x", "", ("loop",))], InvalidArgument, "loop mounts are not served"),
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


def test_what_was_mounted_before_a_failure_is_undone(folder: Path) -> None:
    binds = (Bind("/a", str(folder / "host/file")), Bind("/etc", str(folder / "host/file")))
    with pytest.raises(FailedPrecondition, match=r"on /etc: "):
        mount(planned(folder, *binds))
    assert mounts(folder) == []
    with pytest.raises(FailedPrecondition, match=r"tmpfs/1: "):
        mount(planned(folder, binds[0], tmpfs=[Tmpfs("/t"), Tmpfs("/u", data="size=lots")]))
    assert mounts(folder) == []


def test_what_the_client_mounted_stays(folder: Path) -> None:
    """A failed Create unmounts twice: in ``mount``, and in its caller."""
    linux.mount("tmpfs", str(folder / "rootfs"), "tmpfs", 0)
    (folder / "rootfs/etc").mkdir()
    todo = planned(folder, Bind("/etc", str(folder / "host/file")))
    try:
        with pytest.raises(FailedPrecondition):
            mount(todo)
        unmount(todo)
    finally:
        left = take_down(folder)
    assert left == ["rootfs"]


# Hostile images


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
        mount(todo)
    except FailedPrecondition:
        pass
    else:
        assert set(mounts(folder)) <= {"rootfs", "rootfs/etc/passwd"}
    assert Path("/etc/passwd").read_bytes() == before
    assert (folder / "host/file").read_text() == "host/file"
    assert (folder / "host/folder/inside").exists()
    unmount(todo)


def test_nothing_outside_the_root_is_masked(folder: Path, base: int) -> None:
    todo = planned(folder, masked=("/absolute/file", "/up/file", "/loop", "/far"), readonly=("/up", "/far/passwd"))
    mount(todo)
    assert (folder / "host/file").read_text() == "host/file"
    (folder / "host/new").touch()
    assert Path("/etc/passwd").read_text() != ""
    assert set(mounts(folder)) == {"rootfs", "rootfs/etc"}  # where /far leads, inside
    unmount(todo)


def test_a_file_s_place_that_is_a_link_to_nothing_yet(folder: Path) -> None:
    """/etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf, in many images."""
    (folder / "rootfs/etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    todo = planned(folder, Bind("/etc/resolv.conf", str(folder / "host/file")))
    mount(todo)
    try:
        assert (folder / "rootfs/run/systemd/resolve/stub-resolv.conf").read_text() == "host/file"
    finally:
        unmount(todo)
