"""``ps``, ``pods`` and ``inspect``: pods and containers of every maker."""

from __future__ import annotations

import json

import click

from .client import Node
from .completion import CONTAINER
from .tables import Column, age, format_option, short, show, state

_CONTAINERS = (
    Column("CONTAINER", lambda row: row["id"]),
    Column("STATE", state),
    Column("PID", lambda row: str(row["pid"] or "-"), right=True, rank=3),
    Column("ENGINE", lambda row: f"{row['engine']} {row['tier']}".strip() or "-", rank=4),
    Column("BY", lambda row: row["maker"], rank=5),
    Column("POD", lambda row: row["pod"] if row["pod"] != row["id"] else "-", rank=7),
    Column("NAME", lambda row: row["name"] or "-", rank=6),
    Column("IMAGE", lambda row: row["image"] or "-", rank=2),
    Column("COMMAND", lambda row: short(row["command"]), rank=1),
)
_PODS = (
    Column("POD", lambda row: row["id"]),
    Column("STATE", lambda row: row["state"]),
    Column("AGE", lambda row: age(row["created_at"]), rank=2),
    Column("BY", lambda row: row["maker"], rank=4),
    Column("RUNNING", lambda row: f"{row['running']}/{row['containers']}", right=True, rank=1),
    Column("NAMESPACE", lambda row: row["namespace"], rank=5),
    Column("NAME", lambda row: row["name"] or "-", rank=3),
    Column("NETWORK", lambda row: row["netns"] or "-", rank=6),
)


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="List stopped containers, too.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids alone.")
@format_option
@click.pass_context
def ps(context: click.Context, every: bool, quiet: bool, form: str) -> None:
    """List containers, of every engine.

    \b
    Example:
      wasm-sandboxer ps -a
    """
    rows = Node.of(context).rows("containers", **({"all": ""} if every else {}))
    if quiet:
        for row in rows:
            click.echo(row["id"])
    else:
        show(rows, _CONTAINERS, form)


@click.command()
@format_option
@click.pass_context
def pods(context: click.Context, form: str) -> None:
    """List pod sandboxes, of every engine.

    \b
    Example:
      wasm-sandboxer pods --format json | jq -r .name
    """
    show(Node.of(context).rows("pods"), _PODS, form)


@click.command()
@click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True, type=CONTAINER)
@click.pass_context
def inspect(context: click.Context, containers: tuple[str, ...]) -> None:
    """Show everything about containers, as JSON.

    That is: state, processes, streams, mounts, control group, pod and spec.

    \b
    Example:
      wasm-sandboxer inspect web | jq .spec.mounts
    """
    node = Node.of(context)
    for name in containers:
        click.echo(json.dumps(node.container(node.find(name)), indent=2))
