"""A group of commands that are loaded when they are asked for, and listed by what they are about."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

Sections = Mapping[str, Mapping[str, tuple[str, str]]]
"""Titles of sections, to the names of their commands; of each the module in ``supervisor.commands`` that holds it, and
what it does in a line; "" for one that is not listed. So a list of all commands loads none of them."""


INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it."""

_UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)


class LazyGroup(click.Group):
    """Loads a command's module when the command is run, or its help wanted."""

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._modules = {name: module for commands in sections.values() for name, (module, _) in commands.items()}

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, with streams that a caller has closed opened on nothing: else a file of ours would get their numbers."""
        for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
            if getattr(sys, name) is None:
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
                setattr(sys, name, open(fd, mode, encoding="utf-8"))  # noqa: SIM115  # for the process's life
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Ctrl-C ends it without a word; an output that cannot be written is an error in one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if ctx.invoked_subcommand is None:
                raise
            if sys.stderr.isatty():
                click.echo(err=True)  # after the terminal's ^C
            sys.exit(INTERRUPTED)
        except OSError as error:
            if ctx.invoked_subcommand is None or error.errno not in _UNWRITABLE or error.filename is not None:
                raise
            # What is left in the buffer is tried again at the end, and would make another exit status (120) of it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.ClickException(f"standard output: {error.strerror}") from None

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
        width = max(map(len, self._modules))
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in commands.items() if text])
