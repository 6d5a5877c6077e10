"""The forkserver's loop: what comes together in one round, and a zygote that dies while it is asked, stop nobody."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from workers import protocol
from workers.greeting import FORKSERVER, Hello

from ...harness.bare_forkserver import SECONDS, BareForkserver
from ...harness.compiled import until
from ...harness.container import Pod
from ...harness.daemon import Daemon
from ...harness.guests import guest
from ...harness.helpers import forkserver as find_forkserver
from ...harness.helpers import until_it_asks_a_zygote


@pytest.fixture
def forkserver() -> Iterator[BareForkserver]:
    running = BareForkserver(broken_out=False)
    running.run()
    yield running
    with suppress(OSError):
        running.close()


def zygotes(forkserver: BareForkserver) -> dict[str, int]:
    """Its zygotes' pids, by name."""
    return {each.name(): each.pid for each in psutil.Process(forkserver.pid).children() if "zygote" in each.name()}


def test_a_supervisor_that_says_nothing_keeps_no_other_out(forkserver: BareForkserver) -> None:
    """It connects in the very round in which the one before hangs up."""
    process = psutil.Process(forkserver.pid)
    process.suspend()
    forkserver._reader.close()
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as next_one:
        silent.connect(forkserver.address)
        process.resume()
        next_one.settimeout(SECONDS)
        next_one.connect(forkserver.address)
        protocol.send(next_one, protocol.HELLO, Hello(FORKSERVER).encode())
        assert next_one.recv(1)


def test_a_child_that_was_stopped_and_ended_in_one_round(forkserver: BareForkserver) -> None:
    """Each has sent a signal of its own: it has ended once all the same."""
    process = psutil.Process(forkserver.pid)
    zygote = psutil.Process(zygotes(forkserver)["zygote-worker"])
    process.suspend()
    zygote.suspend()
    until("it is stopped", lambda: zygote.status() == psutil.STATUS_STOPPED)
    zygote.kill()
    until("it has ended", lambda: zygote.status() == psutil.STATUS_ZOMBIE)
    process.resume()
    until("it is reaped", lambda: not zygote.is_running())
    assert forkserver.run(module=guest("hello")).status == 0


def test_an_end_whose_signal_is_lost_is_told_on_a_busy_node(pod: Pod, daemon: Daemon) -> None:
    """The kernel queues so many signals (RLIMIT_SIGPENDING), and no moment is without a message."""
    busy, ends = (pod.with_wasm("sleep").build().start() for _ in range(2))
    limited = find_forkserver(daemon)
    waiting = ends.wait_later(timeout=SECONDS)
    before = limited.rlimit(psutil.RLIMIT_SIGPENDING)
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.1):
            busy.kill(0)

    asking = threading.Thread(target=ask)
    try:
        assert pod.with_wasm("exit").args("0").build().start().wait() == 0
        limited.rlimit(psutil.RLIMIT_SIGPENDING, (0, before[1]))
        os.kill(ends.pid, signal.SIGKILL)
        asking.start()
        assert waiting.result().exit_status == 137
    finally:
        limited.rlimit(psutil.RLIMIT_SIGPENDING, before)
        stop.set()
        asking.join()


def test_a_worker_zygote_that_dies_while_it_is_asked_leaves_the_root_zygote(forkserver: BareForkserver) -> None:
    """A new root zygote would be a fork of a process that knows the requests so far."""
    root = zygotes(forkserver)["zygote-root"]
    zygote = psutil.Process(zygotes(forkserver)["zygote-worker"])
    zygote.suspend()

    def start() -> None:
        with suppress(AssertionError):  # there is no such worker
            forkserver.start()

    starting = threading.Thread(target=start)
    starting.start()
    until_it_asks_a_zygote(forkserver.pid)
    zygote.kill()
    starting.join(SECONDS)
    assert forkserver.run(module=guest("hello")).status == 0
    assert zygotes(forkserver)["zygote-root"] == root
