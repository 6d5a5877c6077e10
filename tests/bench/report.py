"""Writes a run's figures into docs/performance.md: ``python -m tests.bench.report [RESULTS]``.

The text of that file is written by hand; what lies between ``<!-- figures: NAME -->`` and ``<!-- end -->`` is not.
Without an argument it takes what docs/performance/results.json holds, else it puts there what it was given.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ..harness.daemon import ROOT
from . import confinement, density, engines, images, plots
from .figures import OURS, Figure, Results
from .model import Line, fit
from .table import markdown, pivot, section_markdown
from .targets import targets, verdict

DOCUMENT = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
KEPT = FOLDER / "results.json"
NODES = (24, 200)
"""Sizes of nodes, in GB."""
LEFT = 0.9
"""The share of a node's memory that instances may have."""
PUBLISHED, PUBLISHED_GB = 100_000, 183
"""A figure that Kuasar has published of its wasm sandboxer; not measured here."""

_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def line_of_memory(results: Results) -> Line | None:
    """KiB in use by idle instances alive; None where fewer than two numbers of them were measured."""
    points = [(point.at, point.at * point.median) for point in results.series(density.SECTION, density.MEMORY)]
    return fit(points) if len(points) > 1 else None


def node(results: Results) -> str:
    """Instances that a node would hold, by the model."""
    line = line_of_memory(results)
    if line is None:
        return "Not measured."
    pods = results.series(density.SECTION, density.POD)
    pod = pods[-1].median if pods else 0.0
    rows = [("instances in few pods", f"{line.slope:,.1f}"), ("instances in a pod each", f"{line.slope + pod:,.1f}")]
    for mebibytes in (1, 10):
        rows.append(
            (f"in a pod each, with {mebibytes} MiB of the guest's own", f"{line.slope + pod + mebibytes * 1024:,.1f}")
        )
    table = [
        (
            name,
            f"{each} KiB",
            *(f"{(gb * 10**9 * LEFT / 1024 - line.base) / float(each.replace(',', '')):,.0f}" for gb in NODES),
        )
        for name, each in rows
    ]
    head = ("idle", "each", *(f"in {LEFT:.0%} of {gb} GB" for gb in NODES))
    theirs = PUBLISHED_GB * 10**9 / 1024 / PUBLISHED
    ours = line.slope + pod
    return (
        f"Memory in use = {line.base / 1024:,.1f} MiB + {line.slope:,.1f} KiB for each instance; root mean square "
        f"error {line.error / 1024:,.1f} MiB, largest error {line.worst:.1%} of what was measured there.\n\n"
        + markdown([head, *table])
        + f"\n\nKuasar's published figure, {PUBLISHED:,} in {PUBLISHED_GB} GB (not measured here), is "
        f"{theirs:,.0f} KiB each: "
        f"{theirs / ours:.1f} times what one of ours in a pod of its own takes."
    )


def machine(results: Results) -> str:
    """The machine it was measured on."""
    minutes = sum(results.seconds.values()) / 60
    rows = [*results.machine.items(), ("the run took", f"{minutes:.0f} minutes")]
    return markdown([("", ""), *rows])


def _who(figure: Figure) -> str:
    """What tells a subject from ours; nothing for ours."""
    return figure.subject.removeprefix(OURS).removeprefix(", ")


def _what_and_who(figure: Figure) -> str:
    return ", ".join(filter(None, (figure.what.partition(": ")[0], _who(figure))))


_Names = Callable[[Figure], str]
PIVOTS: dict[str, tuple[_Names, _Names, str]] = {
    images.SECTION: (_what_and_who, lambda figure: figure.what.partition(": ")[2], ""),
    engines.SECTION: (lambda figure: figure.what, lambda figure: engines.ENGINES[figure.subject], "ratio"),
    confinement.SECTION: (lambda figure: _who(figure) or "all walls", lambda figure: figure.what, ""),
}
"""Sections of many small comparisons, which are one table each: what names its rows, its columns, and the ratios."""


def comparisons(results: Results, section: str) -> str:
    """A section's tables, or its one table."""
    if section not in PIVOTS:
        return section_markdown(results, section)
    return markdown(pivot([figure for figure in results.figures if figure.section == section], *PIVOTS[section]))


def blocks(results: Results) -> dict[str, str]:
    """All that can stand between markers, by name."""
    rows = [(target.text, target.measured, verdict(target)) for target in targets(results)]
    return {
        "machine": machine(results),
        "targets": markdown([("wanted", "measured", ""), *rows]),
        "node": node(results),
        **{section: comparisons(results, section) for section in results.sections()},
    }


def filled(text: str, results: Results) -> str:
    """The document with these figures. Raises ``KeyError`` where it asks for what there is none of."""
    found = blocks(results)
    return _BLOCK.sub(lambda match: f"{match[1]}\n{found[match[2]]}\n\n{match[3]}", text)


def main() -> None:
    """Fill in, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=KEPT, help="what a run left in build/bench")
    chosen: Path = parser.parse_args().results
    results = Results.load(chosen)
    if chosen != KEPT:
        results.save(KEPT)
        if plots.possible():
            plots.draw(results, FOLDER)
        else:
            print("the pictures stay as they were: matplotlib is not here (make bench installs it)", file=sys.stderr)
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), results))


if __name__ == "__main__":
    main()
