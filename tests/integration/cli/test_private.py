"""``run`` where no daemon listens: it brings one of its own, which ends with it."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ...harness.cli import SECONDS, Cli, Command
from ...harness.guests import guest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """One whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="wasm-t-") as folder:
        yield Path(folder)


@pytest.fixture
def alone(tmp_path: Path) -> Cli:
    where = {"WASM_SANDBOXER_LISTEN": str(tmp_path / "no.sock"), "WASM_SANDBOXER_DIR": str(tmp_path / "no")}
    (tmp_path / "tmp").mkdir()
    return Cli(**where, TMPDIR=str(tmp_path / "tmp"))


def begin(alone: Cli, tmp_path: Path, *words: str | Path) -> Command:
    process = alone.start("--cache-dir", tmp_path / "cache", "run", *words)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def ours(folder: Path) -> list[psutil.Process]:
    """Processes with the private daemon's folder in their command lines or among their open files."""
    return [
        each
        for each in psutil.process_iter(["cmdline"])
        if f"{folder}/tmp/wasm-" in " ".join([*(each.info["cmdline"] or ()), *files(each)])
    ]


def files(process: psutil.Process) -> list[str]:
    """Where its standard streams lead."""
    try:
        return [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (1, 2)]
    except OSError:
        return []


def daemons(folder: Path) -> list[psutil.Process]:
    """Private daemons: the processes with --private on their command lines."""
    return [each for each in ours(folder) if "--private" in each.info["cmdline"]]


def until_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while ours(folder) or list((folder / "tmp").glob("wasm-run-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()


def test_a_private_one_serves_and_leaves_nothing(alone: Cli, tmp_path: Path) -> None:
    done = alone.run("--cache-dir", tmp_path / "cache", "run", "-i", guest("cat"), input="text")
    assert (done.returncode, done.stdout, done.stderr) == (0, "text", "")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not ours(tmp_path)


def test_a_private_daemon_ends_with_its_killed_client(alone: Cli, tmp_path: Path) -> None:
    process = begin(alone, tmp_path, guest("sleep"), "1000")
    assert ours(tmp_path)
    process.kill()
    process.wait()
    until_nothing_is_left(tmp_path)


def test_a_private_daemon_that_is_killed_is_started_again_and_the_guest_runs_on(alone: Cli, tmp_path: Path) -> None:
    process = begin(alone, tmp_path, "--name", "goes-on", guest("sleep"), "1000")
    for _ in range(2):
        (daemon,) = daemons(tmp_path)
        daemon.kill()
        deadline = time.monotonic() + SECONDS
        while daemons(tmp_path) in ([], [daemon]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 128 + signal.SIGTERM
    until_nothing_is_left(tmp_path)


def test_a_private_daemon_that_cannot_be_started_again_ends_its_client(alone: Cli, tmp_path: Path) -> None:
    with begin(alone, tmp_path, guest("sleep"), "1000") as process:
        (folder,) = (tmp_path / "tmp").glob("wasm-run-*")
        (folder / "lock").unlink()
        with (folder / "lock").open("w") as taken:
            fcntl.flock(taken, fcntl.LOCK_EX)
            daemons(tmp_path)[0].kill()
            _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 125
    assert "the daemon died and is not started again" in said
    assert "another sandboxer uses it" in said
    until_nothing_is_left(tmp_path)
    assert os.fsencode(folder) not in {owner(path) for path, _, _ in os.walk("/sys/fs/cgroup")}


def owner(group: str) -> bytes:
    """The --dir that a control group is marked with."""
    try:
        return os.getxattr(group, "trusted.wasm-sandboxer")
    except OSError:
        return b""


def test_the_command_lines_options_reach_a_private_daemon(alone: Cli, tmp_path: Path) -> None:
    options = ("--cache-dir", tmp_path / "cache", "--engine", "wasmtime", "--images", "off", "--require-confinement")
    with alone.start(*options, "run", guest("sleep"), "1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        (daemon,) = daemons(tmp_path)
        words = daemon.info["cmdline"]
        assert words[words.index("--engine") + 1] == "wasmtime"
        assert words[words.index("--images") + 1] == "off"
        assert "--require-confinement" in words
        process.terminate()
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
    until_nothing_is_left(tmp_path)


def test_detached_needs_one_that_stays(alone: Cli) -> None:
    done = alone.run("run", "-d", guest("hello"))
    assert done.returncode == 125
    assert "-d needs a daemon that stays" in done.stderr


def test_a_long_path_for_temporary_files_is_no_obstacle(tmp_path: Path) -> None:
    long = tmp_path / ("n" * 100)
    long.mkdir()
    where = {"WASM_SANDBOXER_LISTEN": str(tmp_path / "no.sock"), "WASM_SANDBOXER_DIR": str(tmp_path / "no")}
    cli = Cli(**where, TMPDIR=str(long))
    assert cli.out("--cache-dir", tmp_path / "cache", "run", guest("hello")) == "hello from WASI\n"
    assert list(Path("/run").glob("wasm-run-*")) == []
