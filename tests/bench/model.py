"""A straight line through measured points, and how far they lie from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """``y = base + slope * x``."""

    base: float
    slope: float
    error: float
    """Root mean square of the distances, in units of y."""
    worst: float
    """The largest distance, as a share of the y measured there."""

    def at(self, x: float) -> float:
        """The line's y."""
        return self.base + self.slope * x

    def reaches(self, y: float) -> float:
        """The x at which the line has this y."""
        return (y - self.base) / self.slope


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line of least squares. Raises ``ValueError`` where fewer than two x are given."""
    if len({x for x, _ in points}) < 2:
        raise ValueError("a line needs points at two places")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    base = mean_y - slope * mean_x
    distances = [y - (base + slope * x) for x, y in points]
    error = (sum(distance**2 for distance in distances) / len(points)) ** 0.5
    worst = max(abs(distance / y) if y else 0.0 for distance, (_, y) in zip(distances, points, strict=True))
    return Line(base, slope, error, worst)
