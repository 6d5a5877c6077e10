"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = (1000, 2000, 5000, 10_000, 20_000, 50_000)


@dataclass(frozen=True, slots=True)
class Options:
    """From the command line; times are in seconds."""

    quick: bool = False
    instances: tuple[int, ...] = LEVELS
    """How many idle instances to have alive at once, ascending."""

    @property
    def settle(self) -> float:
        """Within what time memory has to stand still."""
        return 1.0 if self.quick else 30.0

    def rounds(self, full: int) -> int:
        """How often to measure what is measured this often in a full run."""
        return max(3, full // 10) if self.quick else full

    def seconds(self, full: float) -> float:
        """Seconds to measure, where a full run measures for so long."""
        return full / 6 if self.quick else full
