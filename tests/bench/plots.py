"""The pictures. matplotlib comes with the ``bench`` extra; without it there are none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import density, lifecycle, peers, throughput
from .figures import Figure, Results
from .machine import KINDS
from .model import fit

PER_GIB = 1 << 20  # KiB
NAMES = ("start.png", "memory.png", "peers.png")
_BLUE, _GREY = "#1f6fb2", "#9aa5b1"


def possible() -> bool:
    """Whether matplotlib is here."""
    return find_spec("matplotlib") is not None


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what the results have figures for, and say which files were written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(NAMES, (_start, _memory, _peers), strict=True):
        figure = picture(pyplot, results)
        if figure is not None:
            figure.savefig(folder / name, dpi=90, bbox_inches="tight", metadata={"Software": None})
            pyplot.close(figure)
            written.append(folder / name)
    return written


def _start(pyplot: Any, results: Results) -> Any:
    series = results.series(density.SECTION, density.START)
    if len(series) < 2:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 3))
    alive = [each.at for each in series]
    spreads = [each.spread for each in series if each.spread]
    axes.fill_between(alive, [s.low for s in spreads], [s.high for s in spreads], color=_BLUE, alpha=0.2, lw=0)
    axes.plot(alive, [s.median for s in spreads], "o-", color=_BLUE)
    axes.set(xlabel="idle instances alive", ylabel="ms", title="Task Create to first byte: median and quartiles")
    axes.set_ylim(bottom=0)
    return figure


def _memory(pyplot: Any, results: Results) -> Any:
    series = results.series(density.SECTION, density.MEMORY)
    if len(series) < 2:
        return None
    figure, (total, each) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    alive = [point.at for point in series]
    line = fit([(point.at, point.at * point.median) for point in series])
    ends = (0, max(alive))
    total.plot(ends, [line.at(x) / PER_GIB for x in ends], "-", color=_GREY, label=f"{line.slope:.0f} KiB each")
    total.plot(alive, [point.at * point.median / PER_GIB for point in series], "o", color=_BLUE, label="measured")
    total.set(xlabel="idle instances alive", ylabel="GiB", title="Memory in use (MemAvailable)")
    total.legend(frameon=False)
    bottom = [0.0] * len(series)
    places = list(range(len(series)))
    for kind in KINDS:
        found = {point.at: point.median for point in results.series(density.SECTION, density.LIES, kind)}
        heights = [found.get(at, 0.0) for at in alive]
        each.bar(places, heights, bottom=bottom, label=kind, width=0.6)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    each.plot(places, [point.median for point in series], "k_", markersize=24, label="MemAvailable")
    each.set_xticks(places, [f"{at:,}" for at in alive])
    each.set(xlabel="idle instances alive", ylabel="KiB", title="For each instance")
    each.set_ylim(0, max([*bottom, *(point.median for point in series)]) * 1.5)
    each.legend(frameon=False, ncol=2, fontsize=8)
    figure.tight_layout()
    return figure


def _peers(pyplot: Any, results: Results) -> Any:
    parts: list[tuple[str, list[Figure]]] = [
        ("one life, ms", _of(results, lifecycle.SECTION, lifecycle.WHOLE)),
        ("lives a second, 32 clients", _of(results, throughput.SECTION, throughput.WHAT, 32)),
        ("idle instance, KiB", _of(results, peers.SECTION, peers.MEMORY)),
        ("pod to its end by CRI, ms", _of(results, peers.SECTION, peers.POD)),
        ("pod with idle container, KiB", _of(results, peers.SECTION, peers.POD_MEMORY)),
    ]
    parts = [part for part in parts if len(part[1]) > 1]
    if not parts:
        return None
    figure, rows = pyplot.subplots(len(parts), 1, figsize=(7, 0.5 + 1.15 * len(parts)), squeeze=False)
    for (title, figures), (axes,) in zip(parts, rows, strict=True):
        values = [each.median for each in figures][::-1]
        colours = [_BLUE if "wasm-sandboxer" in each.subject else _GREY for each in figures][::-1]
        bars = axes.barh([each.subject for each in figures][::-1], values, color=colours)
        labels = [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values]
        axes.bar_label(bars, labels=labels, padding=3)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_xlim(0, max(values) * 1.15)
    figure.tight_layout()
    return figure


def _of(results: Results, section: str, what: str, at: int = 0) -> list[Figure]:
    return [f for f in results.figures if (f.section, f.what, f.at) == (section, what, at) and f.samples]
