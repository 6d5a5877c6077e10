"""What is mounted for a container: planned from its spec, made inside its root only, and taken down again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.interface import Mount
from supervisor.host import linux
from supervisor.oci import bundle, mount_tree
from supervisor.oci.mount_tree import build, make_folders
from supervisor.oci.rootfs import MountPlan, mount, plan, unmount
from supervisor.oci.spec import Bind, ProcessSpec, Spec, Tmpfs

from ..leaks import nothing_left_open


def mounts(below: Path) -> list[str]:
    """Mount points below a folder, or it itself, relative to it: once for each mount."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(os.path.relpath(point, below) for point in points if Path(point).is_relative_to(below))


@pytest.fixture(params=["detached", "bench"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle's folder with ``rootfs``, and ``host`` with what may be mounted in it. No mount is left in it."""
    for path in ("rootfs/etc", "host/folder/deep"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("host/file", "host/folder/inside"):
        (tmp_path / path).write_text(path)
    mount_tree.prepare(str(tmp_path / "mounting"))
    direct = request.param == "detached" and linux.mounts_on_detached()
    monkeypatch.setattr(linux, "mounts_on_detached", lambda: direct)
    with nothing_left_open():
        yield tmp_path
        assert os.listdir(tmp_path / "mounting/bench") == []
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
    return plan(spec, str(folder / "rootfs"), rootfs, str(folder / "own"), str(folder / "mounting"))


@contextmanager
def seen(folder: Path, todo: MountPlan) -> Iterator[dict[str, Path]]:
    """What a process is given of these mounts, by its names for it; none of it has a name on the host."""
    before = mounts(folder)
    mount(todo)
    places = build(todo)
    try:
        assert set(mounts(folder)) - set(before) <= {
            "own/rootfs",
            *(f"own/{number}" for number in range(len(todo.tmpfs))),
        }
        yield {place.path: Path(f"/proc/self/fd/{place.fd}") for place in places}
    finally:
        for place in places:
            os.close(place.fd)
        unmount(todo)
        assert mounts(folder) == before


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
        plan(spec, "/", (), "", "")
    with pytest.raises(InvalidArgument, match=r"root\.path /gone: no such folder"):
        plan(spec, "/gone", (), "", "")
    with pytest.raises(InvalidArgument, match="/data: source '/gone' does not exist"):
        planned(folder, Bind("/data", "/gone"))


def test_a_file_in_a_tmpfs(folder: Path) -> None:
    with seen(folder, planned(folder, Bind("/t/file", str(folder / "host/file")), tmpfs=(Tmpfs("/t"),))) as places:
        assert (places["/t"] / "file").read_text() == "host/file"


# Mounting


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
    linux.mount("tmpfs", str(source), "tmpfs", linux.MS_NOEXEC | linux.MS_NOATIME)
    try:
        binds = [
            Bind("/plain", str(source)),
            Bind("/fixed", str(source), readonly=True, attributes=linux.MOUNT_ATTR_NOSYMFOLLOW),
        ]
        with seen(folder, planned(folder, *binds)) as places:
            flags = {path: os.statvfs(place).f_flag for path, place in places.items()}
        always = os.ST_NODEV | os.ST_NOSUID
        assert flags["/"] & (always | os.ST_NOEXEC) == always
        assert flags["/plain"] & (always | os.ST_NOEXEC | os.ST_NOATIME | os.ST_RDONLY) == (
            always | os.ST_NOEXEC | os.ST_NOATIME
        )
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


def test_a_tmpfs_of_each_container_s_own(folder: Path) -> None:
    tmpfs = (Tmpfs("/t", data="size=64k"), Tmpfs("/u"))
    todo = planned(folder, tmpfs=tmpfs)
    mount(todo)
    assert mounts(folder) == ["own/0", "own/1"]
    assert os.statvfs(todo.tmpfs_path(0)).f_blocks * 4096 == 65536
    unmount(todo)
    assert not (folder / "own").exists()


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


def test_what_was_mounted_before_a_failure_is_undone(folder: Path) -> None:
    binds = (Bind("/a", str(folder / "host/file")), Bind("/etc", str(folder / "host/file")))
    with pytest.raises(FailedPrecondition, match=r"on /etc: "):
        build(planned(folder, *binds))
    with pytest.raises(FailedPrecondition, match=r"own/1: "):
        mount(planned(folder, binds[0], tmpfs=[Tmpfs("/t"), Tmpfs("/u", data="size=lots")]))
    assert mounts(folder) == []


def test_what_the_client_mounted_stays(folder: Path) -> None:
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


def test_what_a_supervisor_left_on_its_bench_is_cleared(folder: Path) -> None:
    left = folder / "mounting/bench/left"
    left.mkdir()
    linux.mount("tmpfs", str(left), "tmpfs", 0)
    mount_tree.prepare(str(folder / "mounting"))
    assert mounts(folder) == []
    assert not left.exists()


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
