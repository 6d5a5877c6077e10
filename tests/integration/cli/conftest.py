from __future__ import annotations

import pytest

from ...harness.cli import Cli
from ...harness.daemon import Daemon


@pytest.fixture
def cli(daemon: Daemon) -> Cli:
    return Cli(daemon)
