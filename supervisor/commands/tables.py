"""Output of commands: tables for a terminal, plain columns for a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..host.logs import one_line

Row = dict[str, Any]

STATE_COLOURS = {"running": "green", "ready": "green", "paused": "yellow", "stopped": "bright_black"}

_GAP = 2  # spaces between columns
_LEAST = 12  # characters of a cell that are worth showing

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="'json' is an object a line.",
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title and how a row's cell is made."""

    title: str
    cell: Callable[[Row], str]
    right: bool = False
    """Numbers stand below each other."""
    rank: int = 0
    """Those of the highest rank are left out first where a terminal is too narrow for all; those of rank 0 never."""


def show(rows: Iterable[Row], columns: Sequence[Column], form: str) -> None:
    """Print all rows."""
    if form == "json":
        for row in rows:
            click.echo(json.dumps(row))
        return
    cells = made(rows, columns)
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(drawn(columns, cells, console.width), crop=False)
        return
    for line in plain(columns, cells):
        click.echo(line)


def made(rows: Iterable[Row], columns: Sequence[Column]) -> list[list[str]]:
    """The cells of all rows. What containers are called may hold anything, so that it is escaped for a terminal."""
    return [[one_line(column.cell(row)) for column in columns] for row in rows]


def drawn(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> Any:
    """A rich table for a terminal of so many characters."""
    from rich.table import Table
    from rich.text import Text

    widths = fitted(columns, cells, width)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0), width=_total(widths.values()))
    for at, wide in widths.items():
        justify: Any = "right" if columns[at].right else "left"
        table.add_column(columns[at].title, justify=justify, overflow="ellipsis", no_wrap=True, width=wide)
    for row in cells:
        table.add_row(*(Text(row[at], style=STATE_COLOURS.get(row[at].split(" ")[0], "")) for at in widths))
    return table


def fitted(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """The columns that a terminal of this width has room for, and how wide each is.

    Those of rank 0 are whole whatever the width: the row's name is what other commands are given.
    """
    whole = {at: max(len(row[at]) for row in [[each.title for each in columns], *cells]) for at in range(len(columns))}
    least = {at: min(wide, max(_LEAST, len(columns[at].title))) for at, wide in whole.items() if columns[at].rank}
    least = whole | least
    for at in sorted(whole, key=lambda at: (columns[at].rank, at), reverse=True):
        if columns[at].rank and _total(least[each] for each in whole) > width:
            del whole[at]
    for at in reversed(whole):
        whole[at] -= max(0, min(whole[at] - least[at], _total(whole.values()) - width))
    return whole


def _total(widths: Iterable[int]) -> int:
    return sum(wide + _GAP for wide in widths) - _GAP


def plain(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines, nothing cut."""
    titles = [column.title for column in columns]
    widths = [max(len(row[at]) for row in [titles, *cells]) for at in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in [titles, *cells]
    ]


def age(at: int, now: float | None = None) -> str:
    """The time since ``at`` (nanoseconds since the epoch), as kubectl writes it; "-" where there was none."""
    if not at:
        return "-"
    seconds = max(0, int((now or time.time()) - at / 1e9))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size(number: int) -> str:
    """Bytes in the largest unit that leaves three digits."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def state(row: Row) -> str:
    """A container's state, and since when or with which status."""
    if row["state"] == "stopped":
        return f"stopped ({row['exit_status']}) {age(row['exited_at'])} ago"
    return f"{row['state']} {age(row['started_at'])}" if row["started_at"] else str(row["state"])


def short(text: str, width: int = 32) -> str:
    """At most this many characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
