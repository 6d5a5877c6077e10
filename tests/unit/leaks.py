"""Finds descriptors that were opened and not closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def open_descriptors() -> dict[int, str]:
    """Every descriptor of this process, and what it is of."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            pass
    return found


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Assert that what is opened in here is closed in here, also where it fails."""
    before = open_descriptors()
    try:
        yield
    finally:
        assert dict(open_descriptors().items() - before.items()) == {}
