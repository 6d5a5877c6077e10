"""A guest finds its OCI spec applied: arguments, environment, files, mounts, user, limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Builder, Container, Pod
from ..harness.daemon import Daemon
from ..harness.metrics import usage_of
from ..harness.names import RUN

pytestmark = pytest.mark.engines


def run(builder: Builder, status: int = 0) -> str:
    """Run it to its end; what it wrote."""
    container = builder.build().start()
    assert container.wait() == status, container.stderr()
    return container.stdout()


def status_of(container: Container) -> dict[str, str]:
    lines = Path(f"/proc/{container.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_arguments_and_environment(pod: Pod) -> None:
    output = run(pod.with_wasm("args").args("one", "two words", "drei ü").env(NAME="value", EMPTY=""))
    assert output.splitlines() == [
        "arg /app.wasm",
        "arg one",
        "arg two words",
        "arg drei ü",
        "env NAME=value",
        "env EMPTY=",
    ]


def test_the_module_may_be_relative_to_the_working_directory(pod: Pod) -> None:
    builder = pod.with_wasm("hello").process(cwd="/work")
    (builder.rootfs / "work").mkdir()
    (builder.rootfs / "app.wasm").rename(builder.rootfs / "work" / "tool.wasm")
    assert run(builder.entry("tool.wasm")) == "hello from WASI\n"


def test_relative_paths_start_at_the_working_directory(pod: Pod) -> None:
    builder = (
        pod.with_wasm("files").process(cwd="/work").file("/work/here", "relative\n").file("/etc/there", "absolute\n")
    )
    output = run(builder.args("r here", "r ./here", "r /work/here", "r /etc/there", "w new text"))
    assert output.splitlines() == [
        "here: relative",
        "./here: relative",
        "/work/here: relative",
        "/etc/there: absolute",
        "new: written",
    ]
    assert (builder.rootfs / "work" / "new").read_text() == "text"


def test_a_function_of_a_module_is_called_by_name(pod: Pod) -> None:
    assert run(pod.with_wasm("reactor").entry("/app.wasm#greet")) == "greet was called, initialised 1\n"


def test_the_root_is_writable_unless_the_spec_says_otherwise(pod: Pod, engine_option: str) -> None:
    builder = pod.with_wasm("files").args("w /new text", "m /folder")
    assert run(builder) == "/new: written\n/folder: made\n"
    builder = pod.with_wasm("files").file("/old", "old\n").readonly().args("r /old", "w /new text", "m /folder")
    lines = run(builder).splitlines()
    assert lines[0] == "/old: old"
    refused = (
        "Operation not permitted" if engine_option == "wasmtime" else "Read-only file system"
    )  # of WASI, or the kernel's
    assert lines[1:] == [f"/new: {refused}", f"/folder: {refused}"]
    assert not (builder.rootfs / "new").exists()


def test_bind_mounts_of_folders(pod: Pod, engine_option: str, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "in").write_text("from the host\n")
    builder = (
        pod.with_wasm("files").mount("/data", tmp_path / "shared").mount("/ro", tmp_path / "shared", options=("ro",))
    )
    lines = run(builder.args("r /data/in", "w /data/out text", "r /ro/in", "w /ro/never text")).splitlines()
    assert lines[:3] == ["/data/in: from the host", "/data/out: written", "/ro/in: from the host"]
    refused = "Operation not permitted" if engine_option == "wasmtime" else "Read-only file system"
    assert lines[3] == f"/ro/never: {refused}"
    assert (tmp_path / "shared" / "out").read_text() == "text"
    assert not (tmp_path / "shared" / "never").exists()


def test_bind_mounts_of_files_and_where_they_go(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    builder = (
        pod.with_wasm("files")
        .mount("/etc/hosts", tmp_path / "hosts")
        .mount("/dev/log", tmp_path / "hosts", options=("ro",))
    )
    container = builder.args("r /etc/hosts", "r /dev/log", "w /dev/log x", "w /etc/hosts new").build().start()
    container.wait()
    lines = container.stdout().splitlines()
    assert lines[:2] == ["/etc/hosts: 127.0.0.1 localhost", "/dev/log: 127.0.0.1 localhost"]
    assert "written" not in lines[2]
    assert (lines[3], (tmp_path / "hosts").read_text()) == ("/etc/hosts: written", "new")
    assert pod.daemon.mounts() == []


def test_a_file_bound_inside_a_bound_folder_is_seen_there(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "other").write_text("other\n")
    (tmp_path / "folder" / "conf").write_text("covered\n")
    (tmp_path / "conf").write_text("bound\n")
    builder = pod.with_wasm("files").mount("/data", tmp_path / "folder").mount("/data/conf", tmp_path / "conf")
    assert run(builder.args("r /data/conf", "r /data/other")) == "/data/conf: bound\n/data/other: other\n"
    assert (tmp_path / "folder" / "conf").read_text() == "covered\n"


def test_a_tmpfs_is_real_and_private_and_gone_with_its_container(pod: Pod) -> None:
    builders = [pod.with_wasm("files").mount("/scratch", kind="tmpfs", options=("size=1m",)) for _ in range(2)]
    for builder in builders:
        container = builder.args("l /scratch", "w /scratch/x text", "l /scratch").build().start()
        assert container.wait() == 0
        assert container.stdout() == "/scratch/x: written\n/scratch: x\n"
        assert list((builder.rootfs / "scratch").iterdir()) == []
    pod.stop()
    pod.shutdown()
    assert pod.daemon.mounts() == []
    pod.api.create(pod.id)


@pytest.mark.parametrize("readonly", [False, True])
def test_mount_points_are_seen_in_their_parents(pod: Pod, tmp_path: Path, readonly: bool) -> None:
    (tmp_path / "volume").mkdir()
    builder = pod.with_wasm("files").mount("/srv/data", tmp_path / "volume").mount("/srv/scratch", kind="tmpfs")
    if readonly:
        builder.readonly()
    output = run(builder.args("l /srv", "w /srv/data/x text"))
    assert sorted(output.splitlines()) == ["/srv/data/x: written", "/srv: data", "/srv: scratch"]
    assert list((builder.rootfs / "srv/data").iterdir()) == []


def test_a_private_mount_sees_no_later_mount_of_the_hosts(pod: Pod, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(volume)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(volume)], check=True)
        (volume / "below").mkdir()
        (volume / "go").mkdir()
        builder = pod.with_wasm("cat").mount("/data", volume, options=("rprivate",)).fifos("stdin")
        container = builder.build().start()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(volume / "below")], check=True)
        (volume / "below" / "later").touch()
        seen = Path(f"/proc/{container.pid}/fd")
        folders = [each for each in seen.iterdir() if each.is_dir() and (each / "below").is_dir()]
        assert folders
        assert [list((each / "below").iterdir()) for each in folders] == [[]]
        container.close_stdin()
        assert container.wait() == 0
    finally:
        subprocess.run(["umount", "-l", str(volume / "below")], check=False)
        subprocess.run(["umount", "-l", str(volume)], check=True)


def test_mounts_that_mean_nothing_to_wasi_are_passed_over(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    for destination, kind in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "tmpfs"),
        ("/dev/shm", "tmpfs"),
        ("/dev/pts", "devpts"),
    ]:
        builder.mount(destination, kind, kind)
    assert run(builder) == "hello from WASI\n"
    assert pod.daemon.mounts() == []


def test_the_clients_rootfs_mounts(pod: Pod, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    builder = pod.with_wasm("files").args("r /below", "w /above text")
    (builder.rootfs / "app.wasm").rename(tmp_path / "lower" / "app.wasm")
    (tmp_path / "lower" / "below").write_text("layer\n")
    builder.rootfs_mount(
        "overlay", "overlay", f"lowerdir={tmp_path}/lower", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"
    )
    container = builder.build().start()
    assert container.wait() == 0
    assert container.stdout() == "/below: layer\n/above: written\n"
    assert (tmp_path / "upper" / "above").read_text() == "text"
    container.delete()
    assert pod.daemon.mounts() == []


def test_a_rootfs_mount_that_fails_half_way_is_undone(pod: Pod, tmp_path: Path) -> None:
    builder = (
        pod.with_wasm("hello").rootfs_mount("bind", tmp_path).rootfs_mount("overlay", "overlay", "lowerdir=/nowhere")
    )
    with pytest.raises(FailedPrecondition, match="overlay"):
        builder.build()
    assert pod.daemon.mounts() == []
    builder._mounts.clear()
    assert run(builder) == "hello from WASI\n"


def test_links_in_the_root_do_not_lead_out_of_it(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the host's\n")
    builder = pod.with_wasm("files").args("r /link", "r /folder/secret", "r /../../../../etc/hostname")
    (builder.rootfs / "link").symlink_to(tmp_path / "secret")
    (builder.rootfs / "folder").symlink_to(tmp_path)
    assert "the host's" not in run(builder)


def test_a_module_behind_a_link_out_of_the_root_is_not_found(pod: Pod, tmp_path: Path) -> None:
    builder = pod.with_wasm("hello")
    (builder.rootfs / "app.wasm").rename(tmp_path / "app.wasm")
    (builder.rootfs / "app.wasm").symlink_to(tmp_path / "app.wasm")
    container = builder.build()
    with pytest.raises(InvalidArgument, match=r"/app\.wasm: No such file"):
        container.start()


def test_a_hostile_link_cannot_make_a_file_mount_leave_the_root(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "hosts").write_text("bound\n")
    builder = pod.with_wasm("files").mount("/etc/hosts", tmp_path / "hosts").args("r /etc/hosts")
    (builder.rootfs / "etc").symlink_to(tmp_path / "outside")
    try:
        container = builder.build()
    except (FailedPrecondition, InvalidArgument):
        pass
    else:
        container.delete()
    assert list((tmp_path / "outside").iterdir()) == []


def test_user_groups_capabilities_and_session(pod: Pod) -> None:
    builder = pod.with_wasm("sleep").process(user={"uid": 1234, "gid": 2345, "additionalGids": [7, 8]})
    builder.process(capabilities={"effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]})
    os.chmod(builder.bundle, 0o700)  # the worker resolves no path, so a root-only folder does not matter
    container = builder.build().start()
    status = status_of(container)
    assert status["Uid"].split() == ["1234"] * 4
    assert status["Gid"].split() == ["2345"] * 4
    assert status["Groups"].split() == ["7", "8"]
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert os.getsid(container.pid) == container.pid


def test_a_root_guest_has_no_capability_either(pod: Pod) -> None:
    status = status_of(pod.with_wasm("sleep").build().start())
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


IGNORANT = """
import ctypes, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in range(1, 65):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        libc.syscall(RT_SIGACTION, number, struct.pack("4Q", 1, 0, 0, 0), None, 8)  # SIG_IGN
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_signals_are_at_their_defaults_whoever_starts_the_daemon() -> None:
    """Even those that the C library lets nobody change: its posix_spawn(3) has children ignore them."""
    number = {"x86_64": "13", "aarch64": "134"}[os.uname().machine]
    daemon = Daemon()
    daemon.prefix = [sys.executable, "-c", IGNORANT.replace("RT_SIGACTION", number)]
    with daemon:
        pod = Pod(daemon)
        container = pod.with_wasm("sleep").build().start()
        assert int(status_of(container)["SigIgn"], 16) == 0
        pod.shutdown()
        pod.close()


def test_signals_are_at_their_defaults(pod: Pod) -> None:
    builder = pod.with_wasm("sleep").fifos("stdout")
    fifo = os.open(builder.bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fifo, True)
    container = builder.build().start()
    with open(fifo) as output:
        assert output.readline() == "up\n"  # the guest runs: nothing is left to be set
    status = status_of(container)
    assert {int(status[name], 16) for name in ("SigBlk", "SigIgn")} == {0}


def test_resource_limits_and_oom_score(pod: Pod) -> None:
    builder = pod.with_wasm("sleep").process(
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}], oomScoreAdj=500
    )
    container = builder.build().start()
    limits = Path(f"/proc/{container.pid}/limits").read_text()
    assert next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")) == [
        "100",
        "200",
    ]
    assert Path(f"/proc/{container.pid}/oom_score_adj").read_text() == "500\n"


def test_the_memory_limit_bounds_the_guests_memory(pod: Pod) -> None:
    resources = {"memory": {"limit": 64 << 20}}
    assert run(pod.with_wasm("memory").args("16").linux(resources=resources)) == "got 16\n"
    assert run(pod.with_wasm("memory").args("80").linux(resources=resources), status=1) == "refused\n"


def test_a_worker_has_no_descriptor_but_its_own(pod: Pod, engine_option: str) -> None:
    neighbour = pod.with_wasm("cat").fifos("stdin", "stdout").build().start()
    container = pod.with_wasm("sleep").build().start()
    found = {name: os.readlink(f"/proc/{container.pid}/fd/{name}") for name in os.listdir(f"/proc/{container.pid}/fd")}
    assert found.pop("0").startswith("pipe:")  # at its end: nobody gave an input
    assert found.pop("1") == f"{container.bundle}/stdout"
    assert found.pop("2") == f"{container.bundle}/stderr"
    # The engine's own: the root folder, the module it maps, and what it waits with in poll_oneoff.
    own = {"/", "/app.wasm", "anon_inode:[eventpoll]", "anon_inode:[timerfd]"}  # as seen from inside the root's mount
    if engine_option == "wasmtime":  # it keeps its product, and wakes threads
        own |= {"anon_inode:[eventfd]", *(path for path in found.values() if path.startswith(str(pod.daemon.cache)))}
    assert set(found.values()) <= own
    assert list(found.values()).count("/") == 1
    neighbour.close_stdin()


def test_limits_put_the_worker_into_a_control_group_that_goes_with_the_container(pod: Pod) -> None:
    resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 10}}
    path = f"/wasm-sandboxer-test-{RUN}/limited"
    container = pod.with_wasm("sleep").linux(resources=resources, cgroupsPath=path).build().start()
    groups = Path(f"/proc/{container.pid}/cgroup").read_text()
    assert path in groups
    stats = container.connection.call("Stats", pb.StatsRequest(id=container.id)).stats
    assert 0 < usage_of(stats) <= 64 << 20
    container.kill(signal.SIGKILL)
    container.wait()
    container.delete()
    assert not [found for found in Path("/sys/fs/cgroup").glob(f"*/{path[1:]}") if found.exists()]


def test_a_refused_control_group_fails_the_create_and_leaves_nothing(pod: Pod) -> None:
    with pytest.raises(InvalidArgument, match=r"\.\."):
        pod.with_wasm("hello").linux(cgroupsPath="/../../escape").mount("/scratch", kind="tmpfs").build()
    with pytest.raises(InvalidArgument, match="limit"):
        pod.with_wasm("hello").linux(resources={"memory": {"limit": "much"}}).mount("/scratch", kind="tmpfs").build()
    assert pod.daemon.mounts() == []


def test_stats_of_a_container_without_limits(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    assert usage_of(container.connection.call("Stats", pb.StatsRequest(id=container.id)).stats) > 0


def test_masked_and_readonly_paths_hold(pod: Pod) -> None:
    builder = (
        pod.with_wasm("files").file("/secret/key", "hidden\n").file("/conf/file", "kept\n").file("/token", "hidden\n")
    )
    builder.linux(maskedPaths=["/secret", "/token", "/proc/acpi"], readonlyPaths=["/conf", "/proc/sys"])
    container = (
        builder.args("r /secret/key", "r /token", "r /conf/file", "w /conf/file x", "w /other x").build().start()
    )
    assert container.wait() == 0
    lines = container.stdout().splitlines()
    assert "hidden" not in container.stdout()
    assert lines[2] == "/conf/file: kept"
    assert "written" not in lines[3]
    assert lines[4] == "/other: written"
    container.delete()
    assert pod.daemon.mounts() == []
    assert (builder.rootfs / "token").read_text() == "hidden\n"


def test_no_path_to_mask_is_no_mount(pod: Pod) -> None:
    builder = pod.with_wasm("hello").linux(maskedPaths=["/proc/acpi", "/sys/firmware"], readonlyPaths=["/proc/bus"])
    assert run(builder) == "hello from WASI\n"
    assert pod.daemon.mounts() == []
