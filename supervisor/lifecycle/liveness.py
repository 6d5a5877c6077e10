"""Notifying systemd of our state (sd_notify(3)), and of life: only while the event loop and the forkserver answer."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from sandbox_api.errors import Unavailable

from ..ipc.forkserver import ForkserverClient
from ..model.process import ALIVE
from ..model.registry import Registry

log = logging.getLogger(__name__)

STATUS_SECONDS = 10.0


def notify(state: str) -> None:
    """Send a state such as ``READY=1`` to the service manager that started us, if one did."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:  # a manager that does not listen is no reason to fail
            pass


def watchdog_seconds() -> float:
    """Seconds within which the service manager wants to hear of us; 0 where it does not (sd_watchdog_enabled(3))."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0


def status(registry: Registry) -> str:
    """One line for ``systemctl status``."""
    alive = sum(process.state in ALIVE for _, process in registry.processes.values())
    return f"{len(registry.sandboxes)} sandboxes, {len(registry.containers)} containers, {alive} instances running"


async def tell(registry: Registry, forkserver: ForkserverClient) -> None:
    """Tell the service manager until cancelled. Without one, only look."""
    watchdog = watchdog_seconds()
    pause = min(watchdog / 3, STATUS_SECONDS) if watchdog else STATUS_SECONDS
    while True:
        told = f"STATUS={status(registry)}"
        try:
            async with asyncio.timeout(pause):
                await forkserver.ping()
        except (Unavailable, TimeoutError) as error:
            log.warning("the forkserver does not answer: %s", error or f"nothing within {pause:g} s")
            told += "; the forkserver does not answer"
        else:
            if watchdog:
                told += "\nWATCHDOG=1"
        notify(told)
        await asyncio.sleep(pause)
