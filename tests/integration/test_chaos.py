"""A short run of the chaos test; ``make chaos`` is the long one."""

from __future__ import annotations

from ..chaos.node import Node
from ..chaos.run import Chaos, table

STRIKES = 12
"""Of this seed so many are ten kinds. A number of them, and no time: a busy machine has as many."""


def test_nothing_is_lost_whatever_dies() -> None:
    with Node() as daemon:
        chaos = Chaos(daemon, clients=8, seed=11)
        figures = chaos.run(seconds=300, most=STRIKES)
        assert chaos.shared.wrong == [], f"{table(figures)}\n{daemon.log_text()[-20000:]}"
    assert figures["comparisons with the model"] == STRIKES
    assert figures["deaths of the supervisor"] > 3
