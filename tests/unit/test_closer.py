"""Descriptors whose close takes long are closed aside."""

from __future__ import annotations

import os
import time

from supervisor.host.closer import Closer


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_all_are_closed_also_when_more_come_than_may_wait() -> None:
    fds = [os.open("/", os.O_PATH | os.O_CLOEXEC) for _ in range(700)]
    closer = Closer()
    closer.close(fds)
    deadline = time.monotonic() + 10
    while any(is_open(fd) for fd in fds):
        assert time.monotonic() < deadline
        time.sleep(0.01)
