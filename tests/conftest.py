from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .harness.container import Pod
from .harness.daemon import Daemon


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """One sandboxer for all tests that do not restart or break it."""
    if os.geteuid() != 0:
        pytest.fail("these tests mount, fork and change users: run them as root")
    with Daemon() as running:
        yield running


@pytest.fixture
def pod(daemon: Daemon) -> Iterator[Pod]:
    """A ready sandbox of the test's own, shut down after it."""
    made = Pod(daemon)
    yield made
    made.shutdown()
    made.close()
