"""``stats`` and ``events``: what containers use, and what happens to them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime

import click

from ..host.logs import one_line
from .client import Node, Row
from .completion import CONTAINER
from .tables import Column, format_option, show, size


@dataclass(slots=True)
class Meter:
    """Turns processor time so far into shares of a processor, from one look to the next."""

    _before: dict[tuple[str, str], tuple[int, int]]

    def measure(self, rows: list[Row]) -> list[Row]:
        """The rows with ``cpu``: processors in use since the look before; None at the first."""
        now: dict[tuple[str, str], tuple[int, int]] = {}
        for row in rows:
            key = row["namespace"], row["id"]
            now[key] = row["at"], row["cpu_usec"]
            at, used = self._before.get(key, (0, 0))
            passed = (row["at"] - at) / 1e3  # microseconds
            row["cpu"] = max(0.0, (row["cpu_usec"] - used) / passed) if at and passed > 0 else None
        self._before = now
        return rows


def percent(row: Row) -> str:
    """Share of a processor."""
    return "-" if row["cpu"] is None else f"{row['cpu'] * 100:.1f}%"


def memory(row: Row) -> str:
    """Memory in use, and its limit where there is one."""
    limit = f" / {size(row['memory_limit'])}" if row["memory_limit"] else ""
    return f"{size(row['memory'])}{limit}"


_STATS = (
    Column("CONTAINER", lambda row: row["id"]),
    Column("CPU", percent, right=True),
    Column("CPU TIME", lambda row: f"{row['cpu_usec'] / 1e6:.2f}s", right=True, rank=2),
    Column("MEMORY", memory, right=True),
    Column("PROCESSES", lambda row: str(row["processes"]), right=True, rank=3),
    Column("READ", lambda row: size(row["read_bytes"]), right=True, rank=4),
    Column("WRITTEN", lambda row: size(row["written_bytes"]), right=True, rank=5),
    Column("OOM", lambda row: str(row["oom_kills"]), right=True, rank=1),
)


@click.command()
@click.argument("containers", metavar="[CONTAINER]...", nargs=-1, type=CONTAINER)
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS")
@format_option
@click.pass_context
def stats(context: click.Context, containers: tuple[str, ...], interval: float, form: str) -> None:
    """Show the processor time and memory of containers.

    That is: processor over an interval, memory, bytes read and written.

    \b
    Example:
      wasm-sandboxer stats web
    """
    node = Node.of(context)
    meter = Meter({})
    meter.measure(usage(node, containers))
    time.sleep(interval)
    show(meter.measure(usage(node, containers)), _STATS, form)


def usage(node: Node, containers: tuple[str, ...] = ()) -> list[Row]:
    """Measure these containers, or all that run."""
    if not containers:
        return list(node.rows("stats"))
    return [node.usage(node.find(name)) for name in containers]


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Follow new events.")
@format_option
@click.pass_context
def events(context: click.Context, follow: bool, form: str) -> None:
    """Show recent events of containers.

    The daemon keeps its last 256 events.

    \b
    Example:
      wasm-sandboxer events -f --format json
    """
    node = Node.of(context)
    rows = node.follow("events") if follow else node.rows("events")
    try:
        for row in rows:
            click.echo(json.dumps(row) if form == "json" else _line(row))
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass


def _line(row: Row) -> str:
    """An event in a line: when, what, whose, and what else it says."""
    at = datetime.fromtimestamp(row["at"] / 1e9).astimezone().isoformat(timespec="milliseconds")
    said = {
        name: value
        for name, value in row.items()
        if name not in ("at", "namespace", "topic", "container_id", "rootfs", "io", "bundle", "exited_at")
        and value not in ("", row["container_id"])
    }
    rest = "".join(f" {name}={value}" for name, value in said.items())
    return one_line(f"{at} {row['topic'].removeprefix('/tasks/')} {row['namespace']}/{row['container_id']}{rest}")
