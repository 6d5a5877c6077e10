"""A daemon's helper processes, for tests that break them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from sandbox_api.errors import Unavailable

from .compiled import until
from .container import Container
from .daemon import FORKED, Daemon


def find(daemon: Daemon, name: str) -> psutil.Process | None:
    """The helper of this name that lives, if there is one: its last argument is its socket, named after its build."""
    for kind, _, each in daemon.named():
        if kind not in FORKED:
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie has no command line: the one before it, say
                if f"/{name}-" in "".join(each.cmdline()[-1:]):
                    return each
    return None


def helper(daemon: Daemon, name: str) -> psutil.Process:
    found = find(daemon, name)
    assert found is not None, f"there is no {name}"
    return found


def forkserver(daemon: Daemon) -> psutil.Process:
    return helper(daemon, "forkserver")


def zygote(daemon: Daemon) -> psutil.Process:
    return next(each for name, _, each in daemon.named() if name == "zygote-worker")


def until_it_asks_a_zygote(forkserver_pid: int) -> None:
    """Wait until a forkserver waits for the answer of a zygote, which the test has stopped."""
    waits = Path(f"/proc/{forkserver_pid}/wchan")
    until("the forkserver waits for it", lambda: waits.read_text().startswith("unix_stream"))


def relay(daemon: Daemon) -> psutil.Process:
    return helper(daemon, "relay")


def gone(process: psutil.Process) -> bool:
    """Whether it has ended, reaped or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def started_in_time(container: Container, seconds: float = 30) -> Container:
    """Start it, again where the forkserver is away for the moment: it is given 30 s to come (``channel.py``)."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return container.start()
        except Unavailable:
            assert time.monotonic() < deadline, "no new forkserver came up"
            time.sleep(0.02)  # to try at once takes the processor that the new one needs
