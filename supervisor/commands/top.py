"""``wasm-sandboxer top``: a live table of what runs."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from .client import Node, Row
from .tables import Column, age, drawn, made, short
from .watching import Meter, memory, percent

_COLUMNS = (
    Column("CONTAINER", lambda row: row["id"]),
    Column("CPU", percent, right=True),
    Column("MEMORY", memory, right=True),
    Column("AGE", lambda row: age(row["started_at"]), right=True, rank=2),
    Column("RESTARTS", lambda row: str(row["restarts"]), right=True, rank=6),
    Column("STATE", lambda row: row["state"], rank=1),
    Column("ENGINE", lambda row: row["engine"] or "-", rank=7),
    Column("TIER", lambda row: row["tier"] or "-", rank=4),
    Column("BY", lambda row: row["maker"], rank=5),
    Column("POD", lambda row: row["pod"] if row["pod"] != row["id"] else "-", rank=8),
    Column("COMMAND", lambda row: short(row["name"] or row["command"], 40), rank=3),
)
_SORTS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "c": ("cpu", lambda row: -(row["cpu"] or 0)),
    "m": ("memory", lambda row: -row["memory"]),
    "a": ("age", lambda row: row["started_at"]),
    "r": ("restarts", lambda row: -row["restarts"]),
    "n": ("name", lambda row: (row["namespace"], row["id"])),
    "p": ("pod", lambda row: (row["pod"], row["id"])),
    "t": ("tier", lambda row: (row["tier"], row["id"])),
}
_NAMES = {name: key for key, (name, _) in _SORTS.items()}


@click.command()
@click.option("--sort", type=click.Choice(list(_NAMES)), default="cpu", show_default=True, help="Order at the start.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, metavar="SECONDS")
@click.pass_context
def top(context: click.Context, sort: str, interval: float) -> None:
    """Watch running containers in a live table, until q.

    Keys sort it: c processor, m memory, a age, r restarts, n name, p pod, t tier. In a pipe it is printed once.

    \b
    Example:
      wasm-sandboxer top --sort memory
    """
    node = Node.of(context)
    watch = _Watch(node)
    watch.look()
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        from .tables import plain

        time.sleep(min(interval, 1.0))
        for line in plain(_COLUMNS, made(watch.look(_NAMES[sort]), _COLUMNS)):
            click.echo(line)
        return
    try:
        _live(watch, _NAMES[sort], interval)
    except KeyboardInterrupt:
        pass


class _Watch:
    """The running containers, from look to look."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._meter = Meter({})

    def look(self, sort: str = "c") -> list[Row]:
        """The rows now, sorted. What is used and what it is come in two answers: what is in one alone is left out."""
        known = {(row["namespace"], row["id"]): row for row in self._node.rows("containers")}
        used = self._meter.measure(list(self._node.rows("stats")))
        rows = [{**known[key], **row} for row in used if (key := (row["namespace"], row["id"])) in known]
        return sorted(rows, key=_SORTS[sort][1])


def _live(watch: _Watch, sort: str, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        wait = min(interval, 0.5)  # the first shares of processors come soon
        while True:
            rows = watch.look(sort)
            live.update(_screen(rows, sort, console.size), refresh=True)
            until = time.monotonic() + wait
            wait = interval
            while (left := until - time.monotonic()) > 0:
                pressed = key(left)
                if pressed in ("q", "Q"):
                    return
                if pressed in _SORTS:
                    sort = pressed
                    rows.sort(key=_SORTS[sort][1])
                    live.update(_screen(rows, sort, console.size), refresh=True)


def _screen(rows: list[Row], sort: str, size: Any) -> Any:
    from rich.console import Group
    from rich.text import Text

    head = Text(f"{len(rows)} running, by {_SORTS[sort][0]}   ", style="bold", no_wrap=True, overflow="ellipsis")
    head.append("c m a r n p t: sort, q: quit", style="dim")
    shown = rows[: max(1, size.height - 3)]
    return Group(head, drawn(_COLUMNS, made(shown, _COLUMNS), size.width))


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed: a function that waits for one for so many seconds, "" where there is none."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setcbreak(0)

    def read(seconds: float) -> str:
        ready, _, _ = select.select([0], [], [], seconds)
        return os.read(0, 1).decode(errors="replace") if ready else ""

    try:
        yield read
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
