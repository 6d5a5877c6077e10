"""Output of commands: tables for a terminal, plain columns for a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

Row = dict[str, Any]

STATE_COLOURS = {"running": "green", "ready": "green", "paused": "yellow", "stopped": "bright_black"}

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


def show(rows: Iterable[Row], columns: Sequence[Column], form: str) -> None:
    """Print all rows."""
    if form == "json":
        for row in rows:
            click.echo(json.dumps(row))
        return
    cells = [[column.cell(row) for column in columns] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(drawn(columns, cells))
        return
    for line in plain(columns, cells):
        click.echo(line)


def drawn(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> Any:
    """A rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="ellipsis", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(cell, style=STATE_COLOURS.get(cell.split(" ")[0], "")) for cell in row))
    return table


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
