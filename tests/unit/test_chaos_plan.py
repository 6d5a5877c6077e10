"""One seed of the chaos run is one run of strikes, in whatever process and whatever comes of them."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice

from ..chaos.plan import KINDS, name, strikes
from ..chaos.strikes import Strikes


def test_a_seed_names_its_strikes() -> None:
    program = "from tests.chaos.plan import name; print(name(1))"
    assert subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip() == (name(1))
    assert len({name(seed) for seed in range(20)}) == 20


def test_every_kind_comes_and_is_there() -> None:
    assert {strike.kind for strike in islice(strikes(1), 300)} == set(KINDS)
    assert all(callable(getattr(Strikes, f"_{kind}")) for kind in KINDS)
