"""Futures of those that wait for an end."""

from __future__ import annotations

import asyncio

from sandbox_api.interface import Exit


def add(waiters: list[asyncio.Future[Exit]]) -> asyncio.Future[Exit]:
    """Add one more. Those whose callers went are dropped whenever there are 2, 4, 8, ...: a client may come and go for
    weeks, and a bare list is small."""
    count = len(waiters)
    if count > 1 and not count & (count - 1):
        waiters[:] = [waiter for waiter in waiters if not waiter.done()]
    waiter: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    return waiter
