"""Completion of containers' ids on the command line, and the script that switches it on."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from .client import Node

_VARIABLE = "_WASM_SANDBOXER_COMPLETE"


class ContainerType(click.ParamType):  # type: ignore[type-arg]
    """A container: [NAMESPACE/]ID, or the beginning of an id."""

    name = "container"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The containers whose ids begin so."""
        root = ctx.find_root().params
        node = Node(Path(root.get("listen") or "/"), Path(root.get("folder") or "/"))
        try:
            rows = list(node.rows("containers", name=incomplete) if incomplete else node.rows("containers", all=""))
        except click.ClickException:  # no daemon, or none of that name
            return []
        return [CompletionItem(row["id"], help=f"{row['state']} {row['command']}") for row in rows]


CONTAINER = ContainerType()


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script for completion on the command line.

    It completes commands, options and containers' ids.

    \b
    Example:
      wasm-sandboxer completion bash > /etc/bash_completion.d/wasm-sandboxer
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "wasm-sandboxer", _VARIABLE).source())
