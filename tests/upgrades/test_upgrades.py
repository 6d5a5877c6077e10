"""Upgrades and rollbacks under load: nothing is lost either way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ..harness.compiled import until
from ..harness.daemon import ROOT, Daemon
from .load import Load
from .trees import first_of_0_2_0, next_version, this_version

OTHER_PYTHON = os.environ.get("UPGRADE_PYTHON", "")
"""Another version of Python, with the sandboxer's dependencies."""
INSTANCES = int(os.environ.get("UPGRADE_INSTANCES", "24"))
"""``make upgrades`` has 1,000."""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running
        assert "LATE IMPORT" not in running.log_text(), "what a helper imports late is another version's file by then"
        lines = running.log_text().splitlines()
        dropped = [line for line in lines if "supervisor dropped" in line and "[Errno" not in line]
        assert dropped == [], "a helper does not understand what it is told"
        assert [line for line in lines if 'File "' in line and "/supervisor/" in line] == [], "a traceback"


def helpers(daemon: Daemon, name: str) -> list[int]:
    """Pids of the helpers of all builds."""
    found = []
    for kind, _, each in daemon.named():
        with suppress(psutil.NoSuchProcess):  # zombies are of this kind, too
            if not kind.startswith(("zygote", "wasm")) and any(f"/{name}-" in part for part in each.cmdline()):
                found.append(each.pid)
    return found


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_to_the_next_version_and_back(daemon: Daemon, tmp_path: Path, how: str) -> None:
    later = next_version(tmp_path)
    load = Load(daemon, INSTANCES)
    (first,) = helpers(daemon, "forkserver")
    load.switch(later, how)
    load.begin_more(3)
    for name in ("forkserver", "relay", "logger"):
        assert len(helpers(daemon, name)) == 2, name
    load.switch(ROOT, how)
    assert first in helpers(daemon, "forkserver"), "its own is taken up again"
    load.begin_more(3)
    load.switch(later, how)
    load.finish()
    for name in ("forkserver", "relay", "logger"):
        until(f"one {name} is left", lambda name=name: len(helpers(daemon, name)) <= 1)
    daemon.stop()
    daemon.tree = ROOT
    daemon.start()


def test_from_the_next_version_back(daemon: Daemon, tmp_path: Path) -> None:
    """A rollback whose version was never there before."""
    daemon.stop()
    daemon.tree = next_version(tmp_path)
    daemon.start()
    load = Load(daemon, INSTANCES)
    load.switch(ROOT, "kill")
    load.begin_more(3)
    load.finish()


def test_files_may_be_replaced_or_removed_under_what_runs(daemon: Daemon, tmp_path: Path) -> None:
    """Helpers go on, zygotes are forked again; what would be started of other files is not."""
    daemon.stop()
    daemon.tree = tree = this_version(tmp_path)
    daemon.start()
    load = Load(daemon, 8)
    shutil.rmtree(tree / "workers")
    load.begin_more(2)
    zygote = next(each for name, _, each in daemon.named() if name == "zygote-worker")
    zygote.kill()
    psutil.wait_procs([zygote], timeout=5)
    load.begin_more(2)
    shutil.copytree(next_version(tmp_path) / "workers", tree / "workers")
    forkserver = psutil.Process(helpers(daemon, "forkserver")[0])
    forkserver.kill()
    until("it is said", lambda: "the files of wasm-sandboxer were replaced: restart it" in daemon.log_text())
    load.look()
    load.switch(ROOT, "stop", one_ends=False)  # what the dead one ran is the daemon's child, and then init's
    load.begin_more(2)
    load.finish()


def test_two_daemons_of_two_versions_do_not_serve_at_once(daemon: Daemon, tmp_path: Path) -> None:
    later = next_version(tmp_path)
    container = Load(daemon, 8)
    command = [sys.executable, "-m", "supervisor", "--dir", str(daemon.dir)]
    second = subprocess.run(
        [*command, "--listen", str(tmp_path / "l")], cwd=later, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert "another sandboxer uses it" in second.stderr
    container.look()
    container.finish()


def test_a_forkserver_of_another_build_that_dies_loses_nothing_that_runs(daemon: Daemon, tmp_path: Path) -> None:
    load = Load(daemon, 8)
    (first,) = helpers(daemon, "forkserver")
    load.switch(next_version(tmp_path), "stop")
    load.begin_more(2)
    os.kill(first, signal.SIGKILL)
    until("it is said", lambda: "a forkserver of another build died" in daemon.log_text())
    load.look()


def test_one_of_another_library_is_another_build(daemon: Daemon, tmp_path: Path) -> None:
    """The engine's library and Python are of the build, too: what runs keeps those that it began with."""
    load = Load(daemon, 8)
    library = next(
        Path(line.split()[-1])
        for line in Path(f"/proc/{load.sleeping[0].pid}/maps").read_text().splitlines()
        if "libwasmedge" in line
    )
    if library.is_relative_to(sys.prefix):  # with all that it needs
        shutil.copytree(library.parent, tmp_path / "lib", symlinks=True)
        daemon.environment["WASM_SANDBOXER_LIBWASMEDGE"] = str(tmp_path)
    else:
        shutil.copy(library, tmp_path / "libwasmedge.so.0")
        daemon.environment["WASM_SANDBOXER_LIBWASMEDGE"] = str(tmp_path / "libwasmedge.so.0")
    load.switch(ROOT, "stop")
    load.begin_more(2)
    assert str(tmp_path) in Path(f"/proc/{load.sleeping[-1].pid}/maps").read_text()
    assert str(tmp_path) not in Path(f"/proc/{load.sleeping[0].pid}/maps").read_text()
    load.finish()


@pytest.mark.skipif(not OTHER_PYTHON, reason="UPGRADE_PYTHON names no other Python")
def test_one_of_another_python_is_another_build(daemon: Daemon) -> None:
    load = Load(daemon, INSTANCES)
    first = daemon.python
    for python in (OTHER_PYTHON, first, OTHER_PYTHON):
        daemon.python = python
        load.switch(ROOT, "kill")
        load.begin_more(2)
    assert len(helpers(daemon, "forkserver")) == 2
    load.finish()


def test_0_2_0_to_this_version_and_back(daemon: Daemon, tmp_path: Path) -> None:
    first = first_of_0_2_0(tmp_path)
    if first is None:
        pytest.skip("no git, or no history of this tree: 0.2.0 is not here")
    daemon.stop()
    daemon.tree = first
    daemon.start()
    load = Load(daemon, INSTANCES)
    load.switch(ROOT, "stop")
    load.begin_more(3)
    load.switch(first, "kill")
    load.begin_more(3)
    load.switch(ROOT, "kill")
    load.finish()
