"""The daemon process: how it begins, what it refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ..harness.container import Pod
from ..harness.daemon import ROOT, Daemon


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supervisor", *options]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_sockets_and_folder_are_for_their_owner_only(daemon: Daemon) -> None:
    for path in (daemon.listen, daemon.task_socket, next(daemon.dir.glob("forkserver-*.sock"))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(daemon.dir.stat().st_mode) == 0o700


def test_a_second_daemon_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    same_socket = run("--listen", str(daemon.listen), "--dir", str(tmp_path / "dir"))
    assert same_socket.returncode == 1
    assert "another process serves there" in same_socket.stderr
    same_folder = run("--listen", str(tmp_path / "sock"), "--dir", str(daemon.dir))
    assert same_folder.returncode == 1
    assert "another sandboxer uses it" in same_folder.stderr
    assert len(same_folder.stderr.splitlines()) == 1


def test_a_dead_socket_is_removed(tmp_path: Path) -> None:
    daemon = Daemon()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(daemon.listen))
    with daemon:
        Pod(daemon).close()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    refused = run("--listen", str(tmp_path / "file"), "--dir", str(tmp_path / "dir"))
    assert refused.returncode == 1
    assert "is no socket" in refused.stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_listen_in_a_folder_that_is_missing(tmp_path: Path) -> None:
    refused = run("--listen", str(tmp_path / "no" / "where.sock"), "--dir", str(tmp_path / "dir"))
    line = f"{tmp_path}/no/where.sock: there is no folder {tmp_path}/no: make it, or choose another path"
    assert (refused.returncode, refused.stderr) == (1, f"wasm-sandboxer: {line}\n")


def test_a_folder_too_long_for_its_sockets(tmp_path: Path) -> None:
    folder = str(tmp_path / ("x" * 82))
    refused = run("--listen", str(tmp_path / "api.sock"), "--dir", folder)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"wasm-sandboxer: --dir {folder}: its sockets' paths would be too long: "
        "choose a folder whose path has at most 82 bytes\n"
    )
    assert not Path(folder).exists()


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    refused = run("--listen", str(tmp_path / ("x" * 120)), "--dir", str(tmp_path / "dir"))
    assert (refused.returncode, "107 bytes" in refused.stderr) == (1, True)


def test_a_missing_libwasmedge_is_one_line(tmp_path: Path) -> None:
    library = tmp_path / "libwasmedge.so.0"
    library.write_text("not a library")
    paths = ("--listen", str(tmp_path / "sock"), "--dir", str(tmp_path / "d"))
    for refused in (
        run("--libwasmedge", str(library), *paths),
        run(*paths, WASM_SANDBOXER_LIBWASMEDGE=str(library)),
    ):
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        assert f"{library} does not load" in refused.stderr
        assert "install-wasmedge.sh" in refused.stderr


def test_without_root_it_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for name in ("dir", "cache"):  # as root's daemon has left them
        (tmp_path / name).mkdir(mode=0o700)
    script = (
        "import os, sys; from supervisor import daemon; from supervisor.cli import main;"  # while it may read them
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "--listen", "/tmp/nope.sock", "--dir", str(tmp_path / "dir")]
    command += ["--cache-dir", str(tmp_path / "cache")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    refused = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith("mounts, and gives containers their users")


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("wasm-sandboxer, version ")
    text = "".join(run("--help").stdout.split())  # lines are broken to fit a terminal
    for option in ("--listen", "--dir", "--log-level", "--version", "/run/wasm-sandboxer.sock", "/run/kuasar-wasm"):
        assert option in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_leaves_nothing_where_nothing_runs(number: signal.Signals) -> None:
    with Daemon() as daemon:
        pod = Pod(daemon)
        container = pod.with_wasm("cat").fifos("stdin").mount("/scratch", kind="tmpfs").build().start()
        everybody = daemon.helpers()
        assert len(everybody) >= 3  # forkserver, relay, worker
        container.close_stdin()
        container.wait()
        pod.shutdown()
        assert daemon.mounts() == []
        assert daemon.process is not None
        daemon.process.send_signal(number)
        assert daemon.process.wait(30) == 0
        daemon.process = None
        _, alive = psutil.wait_procs(everybody, timeout=10)
        assert alive == []
        assert not daemon.listen.exists()
        assert not daemon.task_socket.exists()
        assert "Traceback" not in daemon.log_text()
        pod.close()


def test_a_group_may_be_let_in() -> None:
    with Daemon("--socket-group", "65534") as daemon:
        for path in (daemon.listen, daemon.task_socket):
            assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, 65534)
        assert (stat.S_IMODE(daemon.dir.stat().st_mode), daemon.dir.stat().st_gid) == (0o710, 65534)
        assert stat.S_IMODE(next(daemon.dir.glob("forkserver-*.sock")).stat().st_mode) == 0o600
        assert stat.S_IMODE((daemon.dir / "state.db").stat().st_mode) == 0o600
    refused = run("--socket-group", "nobodys-group")
    assert refused.returncode == 2
    assert "no group 'nobodys-group'" in refused.stderr
