"""``python -m tests.bench``: measure, print, and keep. ``make bench`` runs all of it."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from ..e2e.compare import without_unified
from ..harness.daemon import ROOT
from . import (
    compute,
    confinement,
    density,
    engines,
    images,
    lifecycle,
    modules,
    peers,
    plots,
    rivals,
    table,
    throughput,
)
from .figures import Figure, Results
from .machine import describe
from .options import LEVELS, Options
from .progress import Progress

SECTIONS: dict[str, Callable[[Options, Progress], Iterator[Figure]]] = {
    section.SECTION: section.measure
    for section in (lifecycle, throughput, density, compute, modules, images, engines, confinement, peers)
}
OUTPUT = ROOT / "build" / "bench"


def numbers(text: str) -> tuple[int, ...]:
    """Comma-separated, ascending. Raises ``ValueError``."""
    found = tuple(sorted({int(part.replace("_", "")) for part in text.split(",")}))
    if not found or found[0] < 1:
        raise ValueError(text)
    return found


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the sandboxer and its peers.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, to see that it works")
    parser.add_argument("--instances", type=numbers, metavar="N,…", help="idle instances alive at once (density)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and pictures (build/bench)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run; 1 where a section failed."""
    chosen = parse(arguments)
    if os.geteuid() != 0:
        print("bench: it mounts, forks and changes users: run it as root", file=sys.stderr)
        return 1
    without_unified("tests.bench", arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # everything is taken down on the way out
    progress, failed = Progress(), False
    options = Options(chosen.quick, chosen.instances or (LEVELS[:2] if chosen.quick else LEVELS))
    results = Results(describe(rivals.versions()))
    kept = chosen.output / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H%M%SZ}.json"
    for name in chosen.only:
        begun = time.monotonic()
        try:
            for figure in SECTIONS[name](options, progress):
                results.figures.append(figure)
        except Exception:
            failed = True
            progress.clear()
            traceback.print_exc()
            print(f"bench: {name} failed; what it had measured is kept", file=sys.stderr)
        finally:  # also where it is told to end, as by timeout(1)
            results.seconds[name] = round(time.monotonic() - begun, 1)
            results.save(kept)
    progress.clear()
    shutil.copy(kept, chosen.output / "latest.json")
    print(table.terminal(results))
    print(f"kept in {kept}")
    if not plots.possible():
        print("no pictures: matplotlib is not here (make bench installs it)")
    for path in plots.draw(results, chosen.output) if plots.possible() else []:
        print(f"drawn: {path}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
