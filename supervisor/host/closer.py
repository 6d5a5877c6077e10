"""Closing descriptors whose close takes long, aside."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable

_MAX_WAITING = 256


class Closer:
    """Closes descriptors of detached mounts in a thread.

    The last close of one unmounts it, and the kernel waits for a grace period of RCU then (namespace_unlock in
    fs/namespace.c): 0.3 to 0.4 ms each, as long as a quarter of a start.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def close(self, fds: Iterable[int]) -> None:
        """Close these descriptors soon; at once, where too many are waiting."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="closer", daemon=True)
            self._thread.start()
        for fd in fds:
            if self._waiting.qsize() < _MAX_WAITING:
                self._waiting.put(fd)
            else:
                os.close(fd)

    def _run(self) -> None:
        while True:
            os.close(self._waiting.get())


def close_all(fds: Iterable[int], closer: Closer | None) -> None:
    """Close these descriptors: aside, where a ``closer`` is given."""
    if closer is not None:
        closer.close(fds)
    else:
        for fd in fds:
            os.close(fd)
