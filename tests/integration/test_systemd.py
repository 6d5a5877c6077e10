"""Notifications to systemd, and the fields that it reads of the log."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ..harness.container import Pod
from ..harness.daemon import ROOT, Daemon
from ..harness.helpers import forkserver

UNIT = ROOT / "packaging" / "systemd" / "wasm-sandboxer.service"


class Manager:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(daemon.folder / "notify.sock"))

    def next(self, word: str, seconds: float) -> str | None:
        """The next message with this word in it; None where there is none in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                break
            if word in message:
                return message
        return None


@pytest.fixture
def watched() -> Iterator[tuple[Daemon, Manager]]:
    daemon = Daemon()
    daemon.environment["WATCHDOG_USEC"] = "600000"
    manager = Manager(daemon)
    daemon.launch()
    assert manager.next("READY=1", 30)
    try:
        yield daemon, manager
    finally:
        daemon.__exit__()
        manager.socket.close()


def test_the_watchdog_hears_nothing_while_the_forkserver_is_stuck(watched: tuple[Daemon, Manager]) -> None:
    daemon, manager = watched
    assert manager.next("WATCHDOG=1", 2)
    server = forkserver(daemon)
    server.suspend()
    assert manager.next("the forkserver does not answer", 5)
    assert manager.next("WATCHDOG=1", 1.5) is None
    server.resume()
    assert manager.next("WATCHDOG=1", 5)


def test_the_watchdog_hears_nothing_while_the_event_loop_stands_still(watched: tuple[Daemon, Manager]) -> None:
    daemon, manager = watched
    assert daemon.process is not None
    os.kill(daemon.process.pid, 19)
    try:
        while manager.next("", 0.5) is not None:
            pass
        assert manager.next("WATCHDOG=1", 1.5) is None
    finally:
        os.kill(daemon.process.pid, 18)
    assert manager.next("WATCHDOG=1", 5)


def test_the_status_line_counts(watched: tuple[Daemon, Manager]) -> None:
    daemon, manager = watched
    pod = Pod(daemon)
    pod.with_wasm("sleep").build().start()
    pod.with_wasm("sleep").build()
    assert manager.next("STATUS=1 sandboxes, 2 containers, 1 instances running", 5)
    pod.shutdown()
    pod.close()


def test_a_forkserver_that_is_stuck_is_replaced_by_the_next_supervisor() -> None:
    with Daemon() as daemon:
        pod = Pod(daemon)
        runs = pod.with_wasm("sleep").build().start()
        first = forkserver(daemon)
        first.suspend()
        daemon.kill()
        daemon.start()
        assert "it is killed" in daemon.log_text()
        assert runs.reconnect().status() == "RUNNING"
        assert pod.with_wasm("exit").args("6").build().start().wait() == 6
        runs.kill(15)
        assert runs.wait() == 143
        pod.close()


def test_the_journal_gets_priorities_and_no_times(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with (tmp_path / "journal").open("wb") as journal:
        status = os.fstat(journal.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        code = (
            "from supervisor.host import logs; import logging; logs.begin('info'); logging.warning('one\\ntwo')\n"
            "try: int('x')\n"
            "except ValueError: logging.exception('failed')"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=journal, check=True)
    message, failure, *trace = (tmp_path / "journal").read_text().splitlines()
    assert (message, failure) == ("<4>root: one\\ntwo", "<3>root: failed")
    assert trace[-1].startswith("<3>ValueError: ")
    assert all(line.startswith("<3>") for line in trace)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/wasm-sandboxer", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
