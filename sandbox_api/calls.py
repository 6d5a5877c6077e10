"""How both servers run a call: to its end, even when the caller goes away in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Handler = Callable[[str, bytes], Coroutine[Any, Any, bytes]]
"""A method: the caller's namespace and the encoded request in, the encoded response out."""

DEFAULT_NAMESPACE = "default"

_under_way: set[asyncio.Task[bytes]] = set()  # the event loop itself keeps only weak references


async def to_the_end(call: Coroutine[Any, Any, bytes]) -> bytes:
    """Await ``call`` so that cancelling this await does not cancel the call.

    A change of state that stopped half-way because a client vanished would leave a mess behind.
    """
    task = asyncio.ensure_future(call)
    _under_way.add(task)
    task.add_done_callback(_forget)
    return await asyncio.shield(task)


def _forget(task: asyncio.Task[bytes]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # seen: where the caller is gone nobody else will look


async def all_done() -> None:
    """Wait for the calls that are under way."""
    while _under_way:
        await asyncio.wait(_under_way)


def abandonable(method: str) -> bool:
    """Whether a call changes nothing and may be dropped with its caller: the waiting one."""
    return method == "Wait"


async def run(method: str, handler: Handler, namespace: str, payload: bytes) -> bytes:
    """Run a method for a caller that may go away."""
    call = handler(namespace, payload)
    return await (call if abandonable(method) else to_the_end(call))
