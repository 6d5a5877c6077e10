"""Counts kept while the daemon works, for metrics. A part that counts is given the one object.

Counting has to cost nothing that matters: numbers in memory, which get names only in a scrape.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

START_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
COMPILE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LEVELS = ("O0", "O2")
"""Levels of compiled modules."""
STAGES = ("spec", "mounts", "group", "fork", "load", "ready")
"""Stages of a start: config.json read; mounts made; control group made; the worker forked; the module loaded and
instantiated in it; and the whole of Start, from the call to its answer."""


class Histogram:
    """Durations by bucket, in seconds. ``counts`` has one more: the last is for what is longer than all."""

    __slots__ = ("buckets", "counts", "sum")

    def __init__(self, buckets: tuple[float, ...] = START_BUCKETS) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        self.counts[bisect_left(self.buckets, seconds)] += 1
        self.sum += seconds

    def time(self) -> _Timer:
        """Count what is done in here, unless it fails."""
        return _Timer(self)


class _Timer:
    """A plain class: twice as fast as a generator with ``contextmanager``, and there are a dozen a lifecycle."""

    __slots__ = ("_began", "_histogram")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._histogram.observe(time.perf_counter() - self._began)


@dataclass(slots=True)
class Counters:
    """Everything that is counted."""

    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    exits: Counter[str] = field(default_factory=Counter)
    """By kind: zero, nonzero, trap, signal, forbidden_call, memory."""
    helper_deaths: Counter[str] = field(default_factory=Counter)
    transactions: Histogram = field(default_factory=Histogram)
    recovery_seconds: float = 0.0
    module_hits: Counter[str] = field(default_factory=Counter)
    """Starts that ran a compiled module, by its level."""
    module_misses: int = 0
    image_starts: int = 0
    """Starts whose module was mapped from an image."""
    images: Counter[str] = field(default_factory=Counter)
    """Images of modules, by what became of them: made, unfit, dropped."""
    compiles: dict[str, Histogram] = field(
        default_factory=lambda: {level: Histogram(COMPILE_BUCKETS) for level in LEVELS}
    )
    """Compiles that came to a product, by level."""
    compile_failures: Counter[str] = field(default_factory=Counter)
