from __future__ import annotations

from collections.abc import Iterator

import pytest

from ...harness.container import Pod
from ...harness.daemon import Daemon


@pytest.fixture
def daemon(engine_option: str) -> Iterator[Daemon]:
    """A sandboxer of the test's own, which it may break."""
    with Daemon("--engine", engine_option) as running:
        yield running


@pytest.fixture
def pod(daemon: Daemon) -> Iterator[Pod]:
    """A ready sandbox on it."""
    made = Pod(daemon)
    yield made
    made.close()
