"""The benchmark turns samples into spreads, the model, tables, and the document they are written into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import density, lifecycle, report, rivals
from tests.bench.__main__ import numbers
from tests.bench.figures import KIB, MILLISECONDS, OURS, Figure, Results, Spread, kib
from tests.bench.generated import module
from tests.bench.model import fit
from tests.bench.rivals import CRUN, NOT_INSTALLED, WASMEDGE, interleaved
from tests.bench.table import pivot, tables, terminal
from tests.bench.targets import targets


def life(subject: str, *samples: float, note: str = "") -> Figure:
    return Figure(lifecycle.SECTION, lifecycle.WHOLE, subject, MILLISECONDS, samples, note=note)


@pytest.fixture
def results() -> Results:
    """A run in which instances take 300 KiB each, and 2,000 KiB all together."""
    figures = [life(OURS, 2.0, 2.5, 3.0), life(WASMEDGE, 11.0, 10.0, 12.5, 9.0), life(CRUN, note=NOT_INSTALLED)]
    figures += [kib(density.SECTION, density.MEMORY, 300 + 2000 / count, at=count) for count in (1000, 2000, 20_000)]
    return Results({"processor": "one"}, figures, {"lifecycle": 60.0, "density": 61.5})


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5, 1, 4, 2, 3]) == Spread(2, 3, 4, 5)
    assert Spread.of([7]) == Spread(7, 7, 7, 1)
    with pytest.raises(ValueError, match="no sample"):
        Spread.of([])


def test_points_on_a_line_give_that_line() -> None:
    line = fit([(1000, 5250), (2000, 5500), (5000, 6250)])
    assert (line.base, line.slope) == pytest.approx((5000, 0.25))
    assert line.error == pytest.approx(0, abs=1e-6)
    assert line.reaches(line.at(123)) == pytest.approx(123)


def test_the_line_is_that_of_least_squares_and_tells_its_error() -> None:
    line = fit([(0, 0), (1, 3), (2, 3)])  # by hand: 0.5 + 1.5 x, distances -0.5, 1, -0.5
    assert (line.base, line.slope) == pytest.approx((0.5, 1.5))
    assert line.error == pytest.approx((1.5 / 3) ** 0.5)
    assert line.worst == pytest.approx(1 / 3)


def test_one_place_is_no_line() -> None:
    with pytest.raises(ValueError, match="two places"):
        fit([(1000, 5), (1000, 6)])


def test_rows_are_compared_with_ours_and_say_why_one_is_missing(results: Results) -> None:
    (table,) = tables(results, lifecycle.SECTION)
    assert table.rows == [
        ("", "median", "quartiles", "samples", "to ours"),
        (OURS, "2.50 ms", "2.25 to 2.75", "3", ""),
        (WASMEDGE, "10.50 ms", "9.75 to 11.38", "4", "4.20"),
        (CRUN, NOT_INSTALLED, "", "", ""),
    ]


def test_measurements_by_number_have_a_row_each(results: Results) -> None:
    results.figures.append(Figure(density.SECTION, density.MEMORY, "other", KIB, (604.0,), 1000))
    results.figures.append(Figure(density.SECTION, density.MEMORY, "other", KIB, (), 2000, "left out"))
    (table,) = tables(results, density.SECTION)
    assert table.rows == [
        ("", OURS, "other"),
        ("1,000", "302 KiB", "604 KiB, 2.00 of ours"),
        ("2,000", "301 KiB", "left out"),
        ("20,000", "300 KiB", ""),
    ]


def test_a_pivot_has_a_row_and_a_column_for_each_name() -> None:
    figures = [
        Figure("s", f"{what}: {size}", who, KIB, (float(value),), note="")
        for what, size, who, value in (
            ("idle", "small", OURS, 100),
            ("idle", "large", OURS, 200),
            ("idle", "small", WASMEDGE, 300),
        )
    ]
    rows = pivot(figures, lambda f: f.subject, lambda f: f.what.partition(": ")[2], "ratio")
    assert rows == [
        ("", "small", "large", "ratio"),
        (OURS, "100 KiB", "200 KiB", "2.00"),
        (WASMEDGE, "300 KiB", "", ""),
    ]


def test_the_terminal_shows_all_of_it_in_line(results: Results) -> None:
    lines = terminal(results).splitlines()
    assert lines[0] == "LIFECYCLE"
    ours, theirs = (next(line for line in lines if line.strip().startswith(who)) for who in (OURS, WASMEDGE))
    assert ours.index(" ms") == theirs.index(" ms")


def test_results_come_back_as_they_were_kept(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "new" / "run.json")
    assert Results.load(tmp_path / "new" / "run.json") == results


def test_a_target_is_met_or_not_or_was_not_measured(results: Results) -> None:
    met = {target.text: (target.measured, target.met) for target in targets(results)}
    assert met["A lifecycle is 4 times faster than the `wasmedge` program"] == ("4.20 times", True)
    assert met["A lifecycle is 8 times faster than `crun run`"] == ("not measured", None)
    assert met["At most 600 KiB for each of 2,000 idle instances"] == ("301 KiB", True)
    assert met["At most 280 KiB for each of 20,000 idle instances"] == ("300 KiB", False)
    assert met["50,000 idle instances alive at once on 24 GiB"] == ("20,000 alive", False)


def test_the_document_gets_the_figures_and_keeps_its_words(results: Results) -> None:
    text = "By hand.\n<!-- figures: node -->\nold\n<!-- end -->\n<!-- figures: lifecycle -->\n<!-- end -->\nEnd.\n"
    filled = report.filled(text, results)
    assert filled.startswith("By hand.\n<!-- figures: node -->\n\nMemory in use = 2.0 MiB + 300.0 KiB")
    assert "old" not in filled
    assert f"| {WASMEDGE} | 10.50 ms | 9.75 to 11.38 | 4 | 4.20 |" in filled
    assert filled.endswith("<!-- end -->\nEnd.\n")
    assert report.filled(filled, results) == filled
    for gb in (24, 200):  # 90 %, less the base, by 300 KiB
        assert f"{(gb * 0.9e9 / 1024 - 2000) / 300:,.0f}" in filled


def test_the_document_asks_for_nothing_that_was_not_measured(results: Results) -> None:
    with pytest.raises(KeyError):
        report.filled("<!-- figures: compute -->\n<!-- end -->\n", results)


def test_the_document_in_docs_has_the_figures_of_the_run_beside_it() -> None:
    text = report.DOCUMENT.read_text()
    assert report.filled(text, Results.load(report.KEPT)) == text, "run: python -m tests.bench.report"


def test_contenders_take_turns_and_all_get_as_many() -> None:
    turns: list[str] = []

    def one(name: str) -> float:
        turns.append(name)
        return len(turns)

    times = interleaved({"a": lambda: one("a"), "b": lambda: one("b")}, 12, lambda done, of: None, warm_up=2)
    assert [len(values) for values in times.values()] == [12, 12]
    measured = turns[4:]
    assert min(max(i for i, turn in enumerate(measured) if turn == name) for name in "ab") >= 12


def test_peers_that_are_not_there_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "TOOLS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (rivals.wasmedge(), rivals.crun(), rivals.containerd()) == (None, None, None)
    assert set(rivals.versions().values()) == {NOT_INSTALLED}


@pytest.mark.parametrize("size", [16 << 10, 640 << 10])
def test_generated_modules_are_as_large_as_asked_for(size: int) -> None:
    assert len(module(size)) == pytest.approx(size, rel=0.02)


def test_instances_are_numbers_in_order() -> None:
    assert numbers("5000,1_000,5000") == (1000, 5000)
    with pytest.raises(ValueError, match="0,5"):
        numbers("0,5")
