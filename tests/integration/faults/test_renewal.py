"""A fresh forkserver when nothing runs: the next workers have another memory layout."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from ...harness.compiled import until
from ...harness.container import Container, Pod
from ...harness.daemon import Daemon
from ...harness.helpers import find, forkserver, gone

SECONDS = 0.5


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("--renew-forkserver", str(SECONDS)) as daemon:
        yield daemon


def layout(container: Container) -> str:
    """Where the worker's libraries are."""
    lines = Path(f"/proc/{container.pid}/maps").read_text().splitlines()
    return next(line.split("-")[0] for line in lines if "libwasmedge" in line)


def present(daemon: Daemon) -> psutil.Process:
    """The forkserver, once there is one: it may be on its way."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found.extend(filter(None, [find(daemon, "forkserver")]))
        return bool(found)

    until("a forkserver is there", look)
    return found[0]


def test_an_idle_forkserver_is_renewed_and_a_busy_one_is_not(daemon: Daemon, pod: Pod) -> None:
    first = pod.with_wasm("sleep").build().start()
    before, place = present(daemon), layout(first)
    pod.with_wasm("hello").build().start().wait()
    assert forkserver(daemon) == before  # the first still runs
    first.kill(signal.SIGKILL)
    first.wait()
    until("renewed", lambda: gone(before))
    second = pod.with_wasm("sleep").build().start()
    assert layout(second) != place
    assert "died" not in daemon.log_text()


def test_a_start_during_a_renewal_waits_for_it(daemon: Daemon, pod: Pod) -> None:
    for number in range(5):
        before = present(daemon)
        assert pod.with_wasm("exit").args(str(number)).build().start().wait() == number
        until("gone", partial(gone, before))
        assert pod.with_wasm("exit").args(str(number)).build().start().wait() == number
    assert "was not renewed" not in daemon.log_text()
