"""Calls, as both servers run them: a change runs to its end, even when its caller goes away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .errors import ResourceExhausted, TooManyCalls, Unavailable

Handler = Callable[[str, bytes], Coroutine[Any, Any, bytes]]
"""A method: the caller's namespace and the encoded request in, the encoded response out."""


class Kind(Enum):
    """The effect of a method: decides whether its calls are dropped with their callers, and when they are refused."""

    READ = "read"
    """Changes nothing: dropped with its caller, and answered under any load."""
    WAIT = "wait"
    """A read that is answered when something ends: the next supervisor can begin it again."""
    CHANGE = "change"
    """Runs to its end, even when the caller goes away."""


@dataclass(slots=True, eq=False)
class Method:
    """A method as the servers see it, and what they count of it."""

    name: str
    handler: Handler
    kind: Kind
    nameless: Handler | None = None
    """In place of ``handler`` for callers that name no namespace: iSulad."""
    under_way: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    """By status code."""
    refused: Counter[str] = field(default_factory=Counter)
    """For want of something, by what."""

    def count(self, error: Exception) -> None:
        """Count an error where it is a refusal."""
        if isinstance(error, ResourceExhausted):
            self.refused[error.reason] += 1

    def call(self, namespace: str, payload: bytes) -> Coroutine[Any, Any, bytes]:
        """Begin a call; ``namespace`` is "" where the caller named none."""
        handler = self.handler if namespace or self.nameless is None else self.nameless
        return handler(namespace or DEFAULT_NAMESPACE, payload)


Methods = Mapping[tuple[str, str], Method]
"""Methods by the names of their service and their own."""

DEFAULT_NAMESPACE = "default"

_under_way: set[asyncio.Task[bytes]] = set()  # the event loop itself keeps only weak references
_ending = asyncio.Event()


def _forget(task: asyncio.Task[bytes]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved: a caller that is gone does not


def ending() -> Unavailable:
    """The error for calls that come too late, or wait for an event that this process will not see."""
    return Unavailable("the sandboxer is stopping: try again")


async def all_done() -> None:
    """Begin no more changes, and wait for those under way."""
    _ending.set()
    while _under_way:
        await asyncio.wait(_under_way)


MAX_CHANGES = 2048
"""Changes that may be under way at once. More are refused, not queued."""


def begin(method: Method, namespace: str, payload: bytes) -> asyncio.Task[bytes]:
    """Begin a method. A change is not to be cancelled: stopped half-way, it would leave a mess behind.

    Raises ``ResourceExhausted`` where too much is under way, ``Unavailable`` where we are ending.
    """
    changes = method.kind is Kind.CHANGE
    if changes and _ending.is_set():
        raise ending()
    if changes and len(_under_way) >= MAX_CHANGES:
        raise TooManyCalls(f"{method.name}: {MAX_CHANGES} calls are under way: try again later")
    task = asyncio.get_running_loop().create_task(method.call(namespace, payload))
    if changes:
        _under_way.add(task)
        task.add_done_callback(_forget)
    return task


def run(method: Method, namespace: str, payload: bytes) -> Awaitable[bytes]:
    """Run a method for a caller that may go away. Raises ``ResourceExhausted`` where too much is under way."""
    if method.kind is not Kind.CHANGE:
        return method.call(namespace, payload)
    return asyncio.shield(begin(method, namespace, payload))
