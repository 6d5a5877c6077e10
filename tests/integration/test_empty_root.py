"""Native code in a worker finds no name of the host's: Landlock and seccomp let metadata pass, so there is none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.interface import PodConfig
from supervisor.oci import mount_tree, pod_files
from supervisor.oci.rootfs import MountPlan

from ..harness.bare_forkserver import NUMBERS, WITHOUT_EMPTY_ROOT, BareForkserver, Worker, confined, forbidden, refused
from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest

PATHS = (
    "/etc/shadow",
    "/etc",
    "/proc",
    "/proc/1",
    "/proc/self",
    "/proc/self/exe",
    "/proc/self/root/etc/shadow",
    "/proc/self/cwd",
    "/proc/self/fd/0",
    "/dev/null",
    "/sys/kernel",
    "self",
    "self/exe",
    "1",
    "../etc/shadow",
    "../../proc/self/exe",
)


@pytest.fixture(scope="module")
def forkserver() -> Iterator[BareForkserver]:
    made = confined()
    yield made
    made.close()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of root's, outside of what the guest is given."""
    tmp_path.chmod(0o755)
    path = tmp_path / "mine"
    path.write_text("not the guest's")
    os.utime(path, (1000, 1000))
    return path


@pytest.mark.parametrize("suffix", ["wasm", "so"])
@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("how", ["stat", "readlink", "set_times", "access", "open"])
def test_a_path_of_the_host_leads_nowhere(
    forkserver: BareForkserver, tmp_path: Path, mine: Path, how: str, uid: int, suffix: str
) -> None:
    module = tmp_path / f"module.{suffix}"  # as interpreted and as compiled guests run
    module.write_bytes(b"\0asm\1\0\0\0")
    flags = (str(os.O_PATH),) if how == "open" else ()
    for path in (*PATHS, str(mine)):
        outcome = forkserver.run(how, "-", path, *flags, uid=uid, gid=uid, module=module)
        assert refused(outcome) == "ENOENT", path
    assert mine.stat().st_mtime == 1000


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("statx", ("0", "4095", "@")),
        ("newfstatat", ("@", "0")),
        ("readlinkat", ("@", "4095")),
        ("utimensat", ("0", "0")),
        ("faccessat2", ("0", "0")),
    ],
)
def test_the_calls_themselves(forkserver: BareForkserver, name: str, last: tuple[str, ...]) -> None:
    assert refused(forkserver.run("call", str(NUMBERS[name]), "-100", "@/etc/shadow", *last)) == "ENOENT"


@pytest.mark.parametrize("name", ["getxattr", "lgetxattr", "name_to_handle_at", "statfs", "stat", "readlink", "fchdir"])
def test_calls_that_nothing_needs_are_forbidden(forkserver: BareForkserver, name: str) -> None:
    if name not in NUMBERS:
        pytest.skip(f"{name} is no system call of this machine")
    forbidden(forkserver.run("call", str(NUMBERS[name]), "@/etc/shadow", "@", "@", "4095"), name)


def test_a_worker_stands_in_an_empty_root_and_nothing_else_is_mounted(forkserver: BareForkserver) -> None:
    worker = _waiting(forkserver)
    assert os.listdir(f"/proc/{worker.pid}/root") == []
    assert os.listdir(f"/proc/{worker.pid}/cwd") == []
    mounts = _mounts(worker.pid)
    assert len(mounts) == 1, mounts
    assert " / / ro,nosuid,nodev,noexec" in mounts[0]
    os.kill(worker.pid, 9)
    worker.wait()


@pytest.mark.parametrize("suffix", ["wasm", "so"])
@pytest.mark.parametrize("uid", [0, 1000])
def test_the_root_of_a_resolver_has_its_files_to_be_read_and_nothing_else(
    forkserver: BareForkserver, tmp_path: Path, mine: Path, uid: int, suffix: str
) -> None:
    files, module = tmp_path / "pod", tmp_path / f"module.{suffix}"
    module.write_bytes(b"\0asm\1\0\0\0")
    pod_files.make(str(files), PodConfig(hostname="pod"))
    (files / "etc/hostname").chmod(0o666)
    (files / "etc/link").symlink_to("/etc/shadow")
    (files / "etc/up").symlink_to("../../mine")
    resolver = mount_tree.build_resolver(MountPlan("/nowhere", pod=str(files)))

    def tried(how: str, path: str, *flags: str) -> str:
        outcome = forkserver.run(
            how, "-", path, *flags, uid=uid, gid=uid, module=module, resolver=resolver, network=True
        )
        return refused(outcome)

    for path in (*(path for path in PATHS if path != "/etc"), str(mine), "/etc/link", "/etc/up", "/../mine"):
        assert tried("stat", path) == "ENOENT", path
        assert tried("open", path, str(os.O_PATH)) == "ENOENT", path
    assert tried("open", "/etc/hostname", str(os.O_WRONLY)) == "EROFS"
    assert tried("open", "/etc/new", str(os.O_WRONLY | os.O_CREAT)) == "EROFS"
    assert tried("set_times", "/etc/hostname") == "EROFS"
    assert tried("open", "/etc", str(os.O_RDONLY)) == "EACCES"
    os.close(resolver)
    assert mine.stat().st_mtime == 1000


def test_mounts_of_the_host_are_neither_kept_nor_undone(tmp_path: Path) -> None:
    """Those there were before the zygotes: they had a copy of them for a moment."""
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True)
    try:
        (place / "file").write_text("there")
        before = _host_mounts()
        started = confined()
        worker = _waiting(started)
        assert _host_mounts() == before
        assert (place / "file").read_text() == "there"
        assert not any(str(place) in line for line in _mounts(worker.pid))
        os.kill(worker.pid, 9)
        worker.wait()
        started.close()
        assert _host_mounts() == before
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_where_it_is_refused_workers_run_without_it(tmp_path: Path) -> None:
    plain = confined(under=WITHOUT_EMPTY_ROOT)
    assert plain.no_empty_root == errno.EPERM
    worker = _waiting(plain)
    assert os.stat(f"/proc/{worker.pid}/root").st_ino == os.stat("/").st_ino
    assert os.stat(f"/proc/{worker.pid}/cwd").st_ino == os.stat("/").st_ino
    os.kill(worker.pid, 9)
    worker.wait()
    plain.close()
    guests = confined(broken_out=False, under=WITHOUT_EMPTY_ROOT)
    folders = [(tmp_path / name, name == "ro") for name in ("root", "ro")]
    for folder, _ in folders:
        folder.mkdir()
    (tmp_path / "ro" / "fixed").write_text("fixed")
    outcome = guests.run("x", "ro", module=guest("conformance_files"), folders=folders)
    guests.close()
    assert (outcome.report, outcome.status) == ("R", 0), outcome


def test_the_log_says_that_it_is_refused_and_required_it_is_an_error() -> None:
    daemon = Daemon()
    daemon.prefix = [*WITHOUT_EMPTY_ROOT]
    with daemon:
        assert "workers have no empty root (Operation not permitted)" in daemon.log_text()
    daemon = Daemon("--require-confinement")
    daemon.prefix = [*WITHOUT_EMPTY_ROOT]
    with pytest.raises(AssertionError, match=r"workers have no empty root \(Operation not permitted\)"), daemon:
        pass


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("how", ["stat", "readlink", "set_times", "access", "open"])
def test_a_preopens_descriptor_leads_no_way_up(
    forkserver: BareForkserver, tmp_path: Path, mine: Path, how: str, uid: int
) -> None:
    """It is a mount of its own, as the supervisor makes all of a guest's."""
    given = tmp_path / "given"
    given.mkdir()
    place = os.open(given, os.O_PATH | os.O_DIRECTORY)
    detached = mount_tree.clone(place)
    flags = (str(os.O_PATH),) if how == "open" else ()
    for path in (
        "../mine",
        "../../../../../../etc/shadow",
        "../../../../../../../../proc/self/exe",
        "../given/../mine",
    ):
        folders = [(Path(f"/proc/self/fd/{detached}"), False)]
        outcome = forkserver.run(how, "0", path, *flags, uid=uid, gid=uid, folders=folders)
        assert refused(outcome) == "ENOENT", path
    for fd in (place, detached):
        os.close(fd)
    assert mine.stat().st_mtime == 1000


def test_no_folder_of_a_real_workers_has_a_way_up(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    builder = pod.with_wasm("sleep").mount("/data", tmp_path / "volume")
    worker = builder.mount("/scratch", "tmpfs", "tmpfs").build().start()
    folders = [each for each in Path(f"/proc/{worker.pid}/fd").iterdir() if each.is_dir()]
    assert len(folders) == 3
    for folder in folders:
        assert os.path.samestat(os.stat(f"{folder}/.."), os.stat(folder))


def _waiting(forkserver: BareForkserver) -> Worker:
    """A worker that waits for the end of its input, which never comes."""
    read, write = os.pipe()
    worker = forkserver.start("wait", stdin=read)
    os.close(read)
    os.set_inheritable(write, False)
    _held.append(write)
    return worker


_held: list[int] = []


def _host_mounts() -> list[str]:
    """All but those of other sandboxers, which come and go."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if "/wasm-sb-" not in line]


def _mounts(pid: int) -> list[str]:
    """All mounts of a process's namespace, below its root or not (setns(2) goes to the namespace's own root)."""
    program = (
        "import ctypes, os, sys\n"
        "proc = os.open('/proc', os.O_PATH)\n"
        "fd = os.open(f'/proc/{sys.argv[1]}/ns/mnt', os.O_RDONLY)\n"
        "assert ctypes.CDLL(None).setns(fd, 0x20000) == 0\n"
        "file = os.open('self/mountinfo', os.O_RDONLY, dir_fd=proc)\n"
        "sys.stdout.write(os.read(file, 1 << 20).decode())"
    )
    command = [sys.executable, "-c", program, str(pid)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_root_zygote_that_is_killed_at_once_is_no_refusal(tmp_path: Path) -> None:
    """The next one has the empty root, and so have its workers."""
    (tmp_path / "dying.py").write_text(
        "import os\n"
        "from workers import forkserver\n"
        "from workers.confinement import empty_root\n"
        "enter = empty_root.enter\n"
        "def killed(keep_proc):\n"
        f"    if not os.path.exists({str(tmp_path / 'once')!r}):\n"
        f"        os.mkdir({str(tmp_path / 'once')!r})\n"
        "        os.kill(os.getpid(), 9)\n"
        "    enter(keep_proc)\n"
        "def main():\n"
        "    empty_root.enter = killed\n"
        "    forkserver.main()\n"
    )
    bare = BareForkserver(broken_out=False, program="dying", path=tmp_path)
    try:
        assert bare.no_empty_root == 0
        read, write = os.pipe()
        worker = bare.start(module=guest("cat"), stdin=read)
        os.close(read)
        assert os.listdir(f"/proc/{worker.pid}/root") == []
        os.close(write)
        assert worker.wait().status == 0
    finally:
        bare.close()
