from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from .harness.container import Pod
from .harness.daemon import Daemon


def pytest_configure() -> None:
    """Have no signal ignored: a shell's background job is started so, and commands of tests would inherit it."""
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)


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
