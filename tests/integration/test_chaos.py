"""A short run of the chaos test; ``make chaos`` is the long one."""

from __future__ import annotations

from ..chaos.node import Node
from ..chaos.run import Chaos, table


def test_nothing_is_lost_whatever_dies() -> None:
    with Node() as daemon:
        chaos = Chaos(daemon, clients=8, seed=7)
        figures = chaos.run(seconds=12)
        assert chaos.shared.wrong == [], f"{table(figures)}\n{daemon.log_text()[-20000:]}"
    assert figures["deaths of the supervisor"] + figures["deaths of the forkserver"] > 3
