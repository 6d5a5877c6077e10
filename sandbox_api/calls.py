"""How both servers run a call: to its end, even when the caller goes away in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from .errors import ResourceExhausted, Unavailable

Handler = Callable[[str, bytes], Coroutine[Any, Any, bytes]]
"""A method: the caller's namespace and the encoded request in, the encoded response out."""

DEFAULT_NAMESPACE = "default"

_under_way: set[asyncio.Task[bytes]] = set()  # the event loop itself keeps only weak references
_ending = asyncio.Event()


def _forget(task: asyncio.Task[bytes]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # seen: where the caller is gone nobody else will look


def ending() -> Unavailable:
    """What a call is told that comes too late, or waits for what will not come from this process."""
    return Unavailable("the sandboxer is ending: try again")


async def all_done() -> None:
    """Begin no more calls that change something, and wait for those that are under way."""
    _ending.set()
    while _under_way:
        await asyncio.wait(_under_way)


def abandonable(method: str) -> bool:
    """Whether it only waits: it may be dropped with its caller, and begun again."""
    return method == "Wait"


_READS = frozenset({"Wait", "Status", "State", "Platform", "Connect", "Pids", "Stats", "Metrics"})
"""Methods that change nothing: they may be dropped with their caller, and are answered under any load."""

MAX_CHANGES = 2048
"""Calls that change something and may be under way at once. More are refused at once, not queued."""


def read_only(method: str) -> bool:
    """Whether it changes nothing, and may be dropped with its caller."""
    return method in _READS


def begin(method: str, handler: Handler, namespace: str, payload: bytes) -> asyncio.Task[bytes]:
    """Begin a method. What is not ``read_only`` is not to be cancelled.

    A change of state that stopped half-way because a client vanished would leave a mess behind.
    Raises ``ResourceExhausted`` where too much is under way, ``Unavailable`` where we are ending.
    """
    if method not in _READS and _ending.is_set():
        raise ending()
    if method not in _READS and len(_under_way) >= MAX_CHANGES:
        raise ResourceExhausted(f"{method}: {MAX_CHANGES} calls are under way: try again later")
    task = asyncio.get_running_loop().create_task(handler(namespace, payload))
    if method not in _READS:
        _under_way.add(task)
        task.add_done_callback(_forget)
    return task


def run(method: str, handler: Handler, namespace: str, payload: bytes) -> Awaitable[bytes]:
    """Run a method for a caller that may go away. Raises ``ResourceExhausted`` where too much is under way."""
    if method in _READS:
        return handler(namespace, payload)
    return asyncio.shield(begin(method, handler, namespace, payload))
