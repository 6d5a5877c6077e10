"""A daemon's helper processes, for tests that break them."""

from __future__ import annotations

import time

import psutil

from sandbox_api.errors import Unavailable

from .container import Container
from .daemon import FORKED, Daemon


def helper(daemon: Daemon, name: str) -> psutil.Process:
    """Its last argument is its socket, named after its build."""
    return next(
        each for kind, _, each in daemon.named() if kind not in FORKED and f"/{name}-" in "".join(each.cmdline()[-1:])
    )


def forkserver(daemon: Daemon) -> psutil.Process:
    return helper(daemon, "forkserver")


def zygote(daemon: Daemon) -> psutil.Process:
    return next(each for name, _, each in daemon.named() if name == "zygote-worker")


def relay(daemon: Daemon) -> psutil.Process:
    return helper(daemon, "relay")


def started_in_time(container: Container, seconds: float = 5) -> Container:
    """Start it, again where the forkserver is away for the moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return container.start()
        except Unavailable:
            assert time.monotonic() < deadline, "no new forkserver came up"
