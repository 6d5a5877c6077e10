"""Figures of a run: samples with their spread, and the file they are kept in."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

OURS = "wasm-sandboxer"
"""The subject that all others are compared with."""
MILLISECONDS, KIB, RATE = "ms", "KiB", "/s"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of samples; all the same where there is one."""

    low: float
    median: float
    high: float
    count: int

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread:
        """Raises ``ValueError`` without a sample."""
        values = sorted(samples)
        if not values:
            raise ValueError("no sample to take a median of")
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high, len(values))


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what was measured, of whom."""

    section: str
    what: str
    """Rows of a section with the same words are compared."""
    subject: str
    unit: str
    samples: tuple[float, ...] = ()
    at: int = 0
    """Instances alive, or clients, where that matters."""
    note: str = ""
    """A remark; why there is no sample, where there is none."""

    @property
    def spread(self) -> Spread | None:
        """None where it could not be measured."""
        return Spread.of(self.samples) if self.samples else None

    @property
    def median(self) -> float:
        """Raises ``ValueError`` where it could not be measured."""
        return Spread.of(self.samples).median


def milliseconds(
    section: str, what: str, subject: str, seconds: Iterable[float], *, at: int = 0, note: str = ""
) -> Figure:
    """A figure of times, which come in seconds."""
    return Figure(section, what, subject, MILLISECONDS, tuple(round(value * 1000, 4) for value in seconds), at, note)


def kib(section: str, what: str, value: float, *, subject: str = OURS, at: int = 0, note: str = "") -> Figure:
    """A figure of memory, measured once."""
    return Figure(section, what, subject, KIB, (round(value, 2),), at, note)


@dataclass(slots=True)
class Results:
    """A run: what was measured, where and when."""

    machine: dict[str, str]
    """The machine and versions, in words."""
    figures: list[Figure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each section took."""

    def find(self, section: str, what: str, subject: str = OURS, at: int = 0) -> Figure | None:
        """A figure that has samples."""
        for figure in self.figures:
            if (figure.section, figure.what, figure.subject, figure.at) == (section, what, subject, at):
                return figure if figure.samples else None
        return None

    def series(self, section: str, what: str, subject: str = OURS) -> list[Figure]:
        """Figures that differ in what they were measured at, in its order."""
        found = [f for f in self.figures if (f.section, f.what, f.subject) == (section, what, subject) and f.samples]
        return sorted(found, key=lambda figure: figure.at)

    def groups(self, section: str) -> Iterator[list[Figure]]:
        """Figures of a section that are compared, in order of measurement."""
        groups: dict[tuple[str, int], list[Figure]] = {}
        for figure in self.figures:
            if figure.section == section:
                groups.setdefault((figure.what, figure.at), []).append(figure)
        yield from groups.values()

    def sections(self) -> list[str]:
        """In order of measurement."""
        return list(dict.fromkeys(figure.section for figure in self.figures))

    def save(self, path: Path) -> None:
        """Write it as JSON: a figure a line, so that two runs can be compared line by line."""
        figures = []
        for figure in self.figures:
            spread = {"spread": asdict(figure.spread)} if figure.spread else {}
            figures.append("  " + json.dumps({**asdict(figure), **spread}))
        head = json.dumps({"machine": self.machine, "seconds": self.seconds}, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head.removesuffix("\n}") + ',\n "figures": [\n' + ",\n".join(figures) + "\n ]\n}\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what ``save`` wrote. Raises ``OSError``, ``ValueError`` and ``KeyError``."""
        kept = json.loads(path.read_text())
        results = cls(kept["machine"], seconds=kept["seconds"])
        for entry in kept["figures"]:
            entry.pop("spread", None)
            results.figures.append(Figure(**{**entry, "samples": tuple(entry["samples"])}))
        return results
