"""The benchmark itself: a small run, its table and its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench import confinement, density, lifecycle, report
from tests.bench.figures import OURS, Results
from tests.bench.machine import KINDS
from tests.bench.rivals import CRUN, NOT_INSTALLED, WASMEDGE
from tests.harness.daemon import ROOT


def test_a_quick_run_measures_prints_and_keeps(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "--quick", "--instances", "10,20", "--output", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "lifecycle", "density"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert lifecycle.WHOLE in done.stdout
    assert density.MEMORY in done.stdout
    assert "density: 20 instances" in done.stderr  # progress

    results = Results.load(tmp_path / "latest.json")
    assert len(list(tmp_path.glob("2*Z.json"))) == 1
    assert results.sections() == ["lifecycle", "density"]
    for what in (lifecycle.COLD, lifecycle.WHOLE):
        ours = results.find("lifecycle", what)
        assert ours is not None
        assert 0.1 < ours.median < 1000
    for peer in (WASMEDGE, CRUN):
        rows = [figure for figure in results.figures if figure.subject == peer]
        assert rows
        assert all(bool(row.samples) != (row.note == NOT_INSTALLED) for row in rows)
    assert [figure.at for figure in results.series("density", density.START)] == [0, 10, 20]
    # Others are at work here, too, so what 20 instances take may be anything.
    assert {figure.subject for figure in results.figures if figure.what == density.LIES} == set(KINDS)
    assert OURS in report.filled("<!-- figures: density -->\n<!-- end -->\n", results)


def test_each_wall_is_left_out_by_itself(tmp_path: Path) -> None:
    """It looks at a worker's own state whether a wall is there, and fails where that is not as it is to be."""
    command = [sys.executable, "-m", "tests.bench", "--quick", "--only", "confinement", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = Results.load(tmp_path / "latest.json")
    for what in (confinement.WHOLE, confinement.PROCESSOR, confinement.WRITTEN, confinement.TABLES, confinement.SLAB):
        assert {figure.subject for figure in results.figures if figure.what == what} == set(confinement.variants())
