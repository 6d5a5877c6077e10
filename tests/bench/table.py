"""Figures as a table: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .figures import KIB, OURS, RATE, Figure, Results

HEAD = ("", "median", "quartiles", "samples", "to ours")

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A comparison under its heading. The first row names the columns; all columns but the first are numbers."""

    title: str
    rows: list[Row]


def quantity(value: float, unit: str) -> str:
    """A value in its unit, as exact as it is of use."""
    if unit == RATE:
        return f"{value:,.1f}{unit}"
    if unit == KIB:
        return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.1f} {unit}"
    return f"{value:,.1f} {unit}" if abs(value) >= 100 else f"{value:.2f} {unit}"


def ratio(figure: Figure, ours: Figure | None) -> str:
    """How many times ours it is; empty for ours, and where either could not be measured."""
    if ours is None or figure is ours or not figure.samples or not ours.samples or not ours.median:
        return ""
    return f"{figure.median / ours.median:.2f}"


def tables(results: Results, section: str) -> Iterator[Table]:
    """A section's tables, in order of measurement: by subject, or by what they were measured at where that differs."""
    for title in dict.fromkeys(figure.what for figure in results.figures if figure.section == section):
        figures = [figure for figure in results.figures if (figure.section, figure.what) == (section, title)]
        places = sorted({figure.at for figure in figures})
        if len(places) > 1:
            yield Table(title, _by_place(figures, places))
        else:
            yield Table(title + (f": {places[0]:,}" if places[0] else ""), _by_subject(figures))


def _by_subject(figures: Sequence[Figure]) -> list[Row]:
    rows: list[Row] = [HEAD]
    ours = _ours(figures)
    for figure in figures:
        spread = figure.spread
        if spread is None:
            rows.append((figure.subject, figure.note, "", "", ""))
            continue
        who = figure.subject + (f" ({figure.note})" if figure.note else "")
        rows.append(
            (who, quantity(spread.median, figure.unit), _quartiles(figure), str(spread.count), ratio(figure, ours))
        )
    return rows


def _by_place(figures: Sequence[Figure], places: Sequence[int]) -> list[Row]:
    """A row for each place, a column for each subject."""
    subjects = list(dict.fromkeys(figure.subject for figure in figures))
    rows: list[Row] = [("", *subjects)]
    for place in places:
        here = {figure.subject: figure for figure in figures if figure.at == place}
        ours = _ours(list(here.values()))
        rows.append((f"{place:,}", *(_cell(here[name], ours) if name in here else "" for name in subjects)))
    return rows


def _cell(figure: Figure, ours: Figure | None) -> str:
    """All in one: the median, the quartiles, how many times ours."""
    if not figure.samples:
        return figure.note
    times, quartiles = ratio(figure, ours), _quartiles(figure)
    text = quantity(figure.median, figure.unit)
    return text + (f" ({quartiles})" if quartiles else "") + (f", {times} of ours" if times else "")


def _quartiles(figure: Figure) -> str:
    spread = figure.spread
    if spread is None or spread.count < 2:
        return ""
    return " to ".join(
        quantity(value, figure.unit).removesuffix(figure.unit).strip() for value in (spread.low, spread.high)
    )


def pivot(
    figures: Sequence[Figure], row: Callable[[Figure], str], column: Callable[[Figure], str], compared: str = ""
) -> list[Row]:
    """Medians of figures of many kinds in one table: a row and a column for each name that these give.

    ``compared`` heads one more column: how many times the first column's figure the second's is.
    """
    columns = list(dict.fromkeys(map(column, figures)))
    cells = {(row(figure), column(figure)): figure for figure in figures}
    rows: list[Row] = [("", *columns, *([compared] if compared else []))]
    for name in dict.fromkeys(map(row, figures)):
        found = [cells.get((name, each)) for each in columns]
        medians = (_median(figure) if figure else "" for figure in found)
        last = [ratio(found[1], found[0]) if found[1] else ""] if compared else []
        rows.append((name, *medians, *last))
    return rows


def _median(figure: Figure) -> str:
    return quantity(figure.median, figure.unit) if figure.samples else figure.note


def _ours(figures: Sequence[Figure]) -> Figure | None:
    """The subject that others are compared with: us, else what has us in it."""
    named = [figure for figure in figures if OURS in figure.subject]
    return min(named, key=lambda figure: figure.subject != OURS, default=None)


def terminal(results: Results) -> str:
    """All sections."""
    lines = []
    for section in results.sections():
        lines += [section.upper(), ""]
        for table in tables(results, section):
            widths = [max(map(len, column)) for column in zip(*table.rows, strict=True)]
            lines.append(f"  {table.title}")
            for first, *numbers in table.rows:
                cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(numbers, widths[1:], strict=True))]
                lines.append(f"    {'  '.join(cells)}".rstrip())
            lines.append("")
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """One table; the first row is its head."""
    rule = ("---", *["---:"] * (len(rows[0]) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def section_markdown(results: Results, section: str) -> str:
    """A section's tables."""
    return "\n\n".join(
        f"**{table.title[0].upper()}{table.title[1:]}**\n\n{markdown(table.rows)}" for table in tables(results, section)
    )
