"""Answers that somebody may wait for: settled by the first who can, and left alone from then on."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

_T = TypeVar("_T")


def settle(future: asyncio.Future[_T] | None, value: _T) -> None:
    """Settle a future, unless it is settled or cancelled."""
    if future is not None and not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[Any] | None, error: Exception) -> None:
    """Have a future fail, unless it is settled or cancelled."""
    if future is not None and not future.done():
        future.set_exception(error)
