"""A group of commands that are loaded when they are asked for, and listed by what they are about."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

Sections = Mapping[str, Mapping[str, str]]
"""Title of a section, to the names of its commands and the modules of ``supervisor.commands`` that hold them."""


class LazyGroup(click.Group):
    """Loads a command's module when the command is run, or its help wanted."""

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._modules = {name: module for commands in sections.values() for name, module in commands.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, section by section."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"{__package__}.{self._modules[cmd_name]}")
        command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")  # exec_
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each section."""
        commands = {name: self.get_command(ctx, name) for name in self._modules}
        width = max(map(len, commands))
        for title, names in self._sections.items():
            shown = [(name, commands[name]) for name in names]
            rows = [
                (name.ljust(width), command.get_short_help_str(formatter.width - width - 6))
                for name, command in shown
                if command is not None and not command.hidden
            ]
            with formatter.section(title):
                formatter.write_dl(rows)
