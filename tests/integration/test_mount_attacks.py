"""Images, volumes and neighbours that mean to get at the host through what is mounted for a container."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_api.errors import SandboxerError

from ..harness.container import Builder, Container, Pod
from ..harness.daemon import Daemon

pytestmark = pytest.mark.engines

REFUSALS = ("Permission denied", "Operation not permitted", "Capabilities insufficient", "Not permitted")

SECRET = "the disk's"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A block device with a secret at its start: its number, and the file behind it."""
    image = tmp_path / "image"
    image.write_bytes(SECRET.encode().ljust(1 << 20, b"\n"))
    done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True)
    device = done.stdout.strip()
    try:
        yield os.stat(device).st_rdev, image
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def plant(folder: Path, number: int) -> None:
    """A block node and character nodes that everybody may use."""
    folder.mkdir(exist_ok=True)
    for name, kind, rdev in (
        ("disk", stat.S_IFBLK, number),
        ("random", stat.S_IFCHR, os.makedev(1, 8)),
        ("zero", stat.S_IFCHR, os.makedev(1, 5)),
        ("full", stat.S_IFCHR, os.makedev(1, 7)),
    ):
        os.mknod(folder / name, kind | 0o666, rdev)
        os.chmod(folder / name, 0o666)


def attempts(*folders: str) -> list[str]:
    return [
        f"{verb} {folder.rstrip('/')}/{name}{text}"
        for folder in folders
        for name in ("disk", "random", "zero", "full")
        for verb, text in (("r", ""), ("w", " overwritten"))
    ]


def assert_refused(container: Container, image: Path) -> None:
    assert container.wait() == 0, container.stderr()
    lines = container.stdout().splitlines()
    assert lines
    for line in lines:
        assert line.rpartition(": ")[2] in REFUSALS, lines
    os.sync()
    assert image.read_bytes().startswith(SECRET.encode())


@pytest.mark.parametrize("uid", [0, 1000])
def test_device_nodes_are_of_no_use(pod: Pod, tmp_path: Path, disk: tuple[int, Path], uid: int) -> None:
    number, image = disk
    volume = tmp_path / "volume"
    plant(volume, number)
    builder = pod.with_wasm("files").process(user={"uid": uid, "gid": uid})
    plant(builder.rootfs / "nodes", number)
    builder.mount("/volume", volume).mount("/fixed", volume, options=("ro",)).mount("/dev/sda", volume / "disk")
    builder.args(*attempts("/nodes", "/volume", "/fixed"), "r /dev/sda", "w /dev/sda overwritten")
    assert_refused(builder.build().start(), image)


@pytest.mark.parametrize("uid", [0, 1000])
def test_device_nodes_in_the_working_directory_are_of_no_use(pod: Pod, disk: tuple[int, Path], uid: int) -> None:
    number, image = disk
    builder = pod.with_wasm("files").process(user={"uid": uid, "gid": uid}, cwd="/nodes")
    plant(builder.rootfs / "nodes", number)
    assert_refused(builder.args(*attempts(".", "/nodes")).build().start(), image)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("engine", [True, False], ids=["by_the_engine", "by_us"])
def test_device_nodes_in_an_overlay_root_are_of_no_use(
    pod: Pod, tmp_path: Path, disk: tuple[int, Path], uid: int, engine: bool
) -> None:
    number, image = disk
    builder = pod.with_wasm("files").process(user={"uid": uid, "gid": uid}).args(*attempts("/nodes"))
    with overlay(builder, tmp_path, engine) as lower:
        plant(lower / "nodes", number)
        container = builder.build().start()
        assert_refused(container, image)
        container.delete()


@contextmanager
def overlay(builder: Builder, folder: Path, engine: bool) -> Iterator[Path]:
    """An overlay as the container's root, mounted by its engine or handed over to be mounted; its lower folder."""
    for name in ("lower", "upper", "work"):
        (folder / name).mkdir()
    (builder.rootfs / "app.wasm").rename(folder / "lower" / "app.wasm")
    options = [f"lowerdir={folder}/lower", f"upperdir={folder}/upper", f"workdir={folder}/work"]
    if not engine:
        builder.rootfs_mount("overlay", "overlay", *options)
        yield folder / "lower"
        return
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", ",".join(options), str(builder.rootfs)], check=True)
    try:
        yield folder / "lower"
    finally:
        subprocess.run(["umount", "-l", str(builder.rootfs)], check=True)


def test_device_nodes_in_a_tmpfs_are_of_no_use(pod: Pod, disk: tuple[int, Path]) -> None:
    number, image = disk
    builder = pod.with_wasm("files").mount("/scratch", kind="tmpfs").args(*attempts("/scratch/nodes"))
    container = builder.build()
    (scratch,) = pod.daemon.mounts()
    plant(Path(scratch) / "nodes", number)
    assert_refused(container.start(), image)


def test_the_control_group_of_a_limited_container_has_no_device(pod: Pod) -> None:
    """The second wall, where a mount without ``nodev`` should ever slip in."""
    devices = Path("/sys/fs/cgroup/devices")
    if not (devices / "devices.list").exists():
        pytest.skip("needs the devices controller of version 1; version 2 is in cgroups/test_v2.py")
    container = pod.with_wasm("sleep").linux(resources={"pids": {"limit": 10}}).build().start()
    lines = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
    (group,) = (line.split(":", 2)[2] for line in lines if line.split(":")[1] == "devices")
    assert (devices / group.lstrip("/") / "devices.list").read_text() == ""


def test_a_root_that_its_engine_mounted_is_as_its_spec_says(pod: Pod, tmp_path: Path) -> None:
    builder = pod.with_wasm("files").readonly().args("r /old", "w /old x", "w /new x")
    with overlay(builder, tmp_path, engine=True) as lower:
        (lower / "old").write_text("layer\n")
        before = mountinfo(tmp_path, pod.daemon.folder)
        container = builder.build().start()
        assert container.wait() == 0
        container.delete()
        assert mountinfo(tmp_path, pod.daemon.folder) == before
    lines = container.stdout().splitlines()
    assert lines[0] == "/old: layer"
    assert not any("written" in line for line in lines)
    assert list((tmp_path / "upper").iterdir()) == []


def test_nothing_of_a_guests_can_be_mapped_as_code(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    builder = pod.with_wasm("sleep").mount("/data", tmp_path / "volume").mount("/scratch", kind="tmpfs")
    worker = builder.build().start()
    folders = [each for each in Path(f"/proc/{worker.pid}/fd").iterdir() if each.is_dir()]
    assert len(folders) == 3
    wanted = os.ST_NOEXEC | os.ST_NODEV | os.ST_NOSUID
    assert [os.statvfs(folder).f_flag & wanted for folder in folders] == [wanted] * 3


def test_options_of_the_sources_mount_are_kept(pod: Pod, tmp_path: Path) -> None:
    """A mount that is read-only on the host is so for the guest, with or without options of its own."""
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,noexec", "tmpfs", str(volume)], check=True)
    try:
        builder = pod.with_wasm("files").mount("/a", volume).mount("/b", volume, options=("nodev", "ro"))
        container = builder.args("w /a/x text", "w /b/x text").build().start()
        assert container.wait() == 0
        assert "written" not in container.stdout()
    finally:
        subprocess.run(["umount", "-l", str(volume)], check=True)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with two folders, and beside it a file that may be written through a mount, and one that may not."""
    for name in ("one", "two"):
        (tmp_path / "volume" / name).mkdir(parents=True)
        (tmp_path / "volume" / name / "conf").write_text("the volume's")
    (tmp_path / "fixed").write_text("fixed\n")
    (tmp_path / "free").write_text("free\n")
    return tmp_path / "volume"


def test_read_only_stays_while_a_neighbour_exchanges_folders(pod: Pod, volume: Path) -> None:
    """One mount is read-only and one is not: what is said of the one must not end up on the other."""
    before = mountinfo(volume.parent, pod.daemon.folder)
    writable = 0
    with exchanging(volume / "one", volume / "two"):
        for _ in range(100):
            builder = pod.with_wasm("files").mount("/data", volume)
            builder.mount("/data/two/conf", volume.parent / "free")
            builder.mount("/data/one/conf", volume.parent / "fixed", options=("ro",))
            container = run(builder.args("w /data/one/conf evil", "w /data/two/conf evil"))
            writable += "written" in container.stdout() if container else False
            assert (volume.parent / "fixed").read_text() == "fixed\n"
    assert writable  # guests did run
    assert mountinfo(volume.parent, pod.daemon.folder) == before


def test_covering_paths_changes_nothing_else_while_they_are_exchanged(pod: Pod, volume: Path) -> None:
    """A folder of the volume is a link to the host's at every other moment."""
    outside = volume.parent / "outside"
    outside.mkdir()
    (outside / "conf").write_text("outside")
    (volume / "link").symlink_to(outside)
    before = mountinfo(volume.parent, pod.daemon.folder)
    with exchanging(volume / "one", volume / "link"):
        for _ in range(50):
            builder = pod.with_wasm("files").mount("/data", volume)
            builder.mount("/data/one/conf", volume.parent / "fixed", options=("ro",))
            builder.linux(readonlyPaths=["/data/one"], maskedPaths=["/data/one/conf", "/data/one/new"])
            run(builder.args("w /data/one/conf evil", "w /data/link/conf evil"))
    assert mountinfo(volume.parent, pod.daemon.folder) == before
    assert [path.name for path in outside.iterdir()] == ["conf"]
    assert (outside / "conf").read_text() == "outside"
    assert (volume.parent / "fixed").read_text() == "fixed\n"


def run(builder: Builder) -> Container | None:
    """Run it to its end and delete it; None where it was refused."""
    try:
        container = builder.build()
    except SandboxerError:
        return None
    try:
        container.start().wait()
    except SandboxerError:
        return None
    finally:
        container.delete()
    return container


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names all the time, as a guest can that shares the volume; as they were at the end."""
    code = (
        "import ctypes, sys\n"
        "swap, names = ctypes.CDLL(None).renameat2, [name.encode() for name in sys.argv[1:]]\n"
        "print(flush=True)\n"
        "while True: swap(-100, names[0], -100, names[1], 2)"  # AT_FDCWD, RENAME_EXCHANGE
    )
    was = one.lstat().st_ino
    with subprocess.Popen([sys.executable, "-c", code, str(one), str(other)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
    if one.lstat().st_ino != was:
        spare = one.parent / "spare"
        one.rename(spare)
        other.rename(one)
        spare.rename(other)


def mountinfo(*ours: Path) -> list[str]:
    """Mount points of the host and below these folders, and whether each may be written to."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    elsewhere = ("/tmp/", "/srv/", "/run/")  # where other tests may mount meanwhile
    return sorted(
        f"{words[4]} {words[5]}"
        for words in lines
        if not words[4].startswith(elsewhere) or any(Path(words[4]).is_relative_to(folder) for folder in ours)
    )


def test_mounts_are_made_again_for_a_container_that_outlived_its_supervisor(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("bound\n")
    (tmp_path / "volume").mkdir()
    with Daemon() as daemon:
        pod = Pod(daemon)
        builder = pod.with_wasm("files").mount("/etc/hosts", tmp_path / "hosts").mount("/data", tmp_path / "volume")
        builder.mount("/scratch", kind="tmpfs").file("/secret", "hidden\n").linux(maskedPaths=["/secret"])
        builder.args("r /etc/hosts", "w /data/x text", "w /scratch/x text", "r /secret")
        container = builder.build()
        daemon.kill()
        daemon.start()
        container.reconnect().start()
        assert container.wait() == 0
        assert container.stdout() == "/etc/hosts: bound\n/data/x: written\n/scratch/x: written\n/secret: \n"
        container.delete()
        assert daemon.mounts() == []
