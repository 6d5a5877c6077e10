"""Usage of containers where no control group counts it."""

from __future__ import annotations

import os

from sandbox_api.interface import Usage
from supervisor.lifecycle import usage

MIB = 1 << 20


def test_total_of_limits_is_none_where_one_has_none() -> None:
    limited, free = Usage(at=1, memory=5, memory_limit=10, process_limit=1), Usage(at=2, memory=7, process_limit=2)
    assert usage.total([limited, free], 9) == Usage(at=9, memory=12, process_limit=3)
    assert usage.total([], 9) == Usage(at=9)


def test_usage_of_processes() -> None:
    seen = usage.of_processes([os.getpid(), 1 << 22], 3)
    assert (seen.at, seen.processes) == (3, 1)
    assert seen.cpu == seen.cpu_user + seen.cpu_system > 0
    assert seen.memory >= seen.anon > MIB
