"""A ttrpc call under way on a connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .. import calls, status
from ..errors import DeadlineExceeded

if TYPE_CHECKING:
    from .connection import Connection


class Call:
    """Answers its connection when its task is done, or its time is up."""

    __slots__ = ("_connection", "_task", "_timer", "method", "place", "stream")

    def __init__(
        self, connection: Connection, stream: int, method: calls.Method, task: asyncio.Task[bytes], place: int
    ) -> None:
        self._connection = connection
        self.method = method
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self.stream = stream
        self.place = place
        """In the keeper's journal; 0 where it is not there."""
        method.under_way += 1
        task.add_done_callback(self._done)

    def limit(self, seconds: float) -> None:
        """Answer within this time in any case."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late, seconds)

    def abandon(self) -> None:
        """Drop the answer: its client is gone."""
        if self._timer is not None:
            self._timer.cancel()
        if self.method.kind is not calls.Kind.CHANGE:
            self._task.cancel()

    def _late(self, seconds: float) -> None:
        late = DeadlineExceeded(f"{self.method.name}: no answer within {seconds:g} s")
        self._connection.done(self, status.of(late, self.method.name))
        self.abandon()

    def _done(self, task: asyncio.Task[bytes]) -> None:
        self.method.under_way -= 1
        if self._timer is not None:
            self._timer.cancel()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._connection.done(self, (status.OK, ""), task.result())
        elif isinstance(error, Exception):
            self.method.count(error)
            self._connection.done(self, status.of(error, self.method.name))
