"""``wasm-sandboxer man``: the manual page, made from the help texts (man-pages(7), groff_man(7))."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

import click

_DESCRIPTION = "run WebAssembly workloads as isolated processes"
_FILES = (
    ("/run/wasm-sandboxer.sock", "The Sandbox API (--listen)."),
    ("/run/kuasar-wasm", "State, mounts and sockets (--dir): task.sock is the Task API, info.sock answers questions."),
    ("/var/cache/wasm-sandboxer", "Compiled modules (--cache-dir)."),
)


@click.command(hidden=True)
@click.pass_context
def man(context: click.Context) -> None:
    """Print the manual page.

    \b
    Example:
      wasm-sandboxer man | man -l -
    """
    root = context.find_root()
    click.echo("\n".join(page(root)))


def page(root: click.Context) -> Iterator[str]:
    """The lines of the page."""
    from .. import __version__

    group = root.command
    assert isinstance(group, click.Group)
    name = "wasm-sandboxer"
    yield f'.TH {name.upper()} 8 "" "{_escape(__version__)}" "System administration"'
    yield from (".SH NAME", f"{_escape(name)} \\- {_escape(_DESCRIPTION)}")
    yield from (".SH SYNOPSIS", f".B {_escape(name)}", "[OPTIONS] [COMMAND [ARGS]...]")
    yield ".SH DESCRIPTION"
    yield from _text(group.help or "")
    yield ".SH OPTIONS"
    yield from _options(root)
    yield ".SH COMMANDS"
    for words, context in _commands(root):
        usage = " ".join([*words, *context.command.collect_usage_pieces(context)])
        yield f".SS {_escape(usage)}"
        yield from _text(context.command.help or "")
        yield from _options(context)
    yield ".SH FILES"
    for path, text in _FILES:
        yield from (".TP", f".I {_escape(path)}", _escape(text))
    yield ".SH EXIT STATUS"
    yield "0 where all went well, 1 where something failed, 2 where the command line is wrong."
    yield "run and exec end with the program's own status; see there."
    yield from (".SH SEE ALSO", ".BR containerd (8),", ".BR crictl (1),", ".BR isulad (8)")


def _commands(root: click.Context) -> Iterator[tuple[list[str], click.Context]]:
    """Every command that is not hidden, with the words that call it."""
    group = root.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=root)
        if isinstance(command, click.Group):
            for words, each in _commands(context):
                yield [name, *words], each
        else:
            yield [name], context


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield from (".TP", f".B {_escape(record[0])}", _escape(record[1]))


def _text(text: str) -> Iterator[str]:
    r"""A help text: paragraphs, of which those that begin with \b keep their lines."""
    for paragraph in re.split(r"\n\s*\n", text.replace("\f", "")):
        lines = [line.rstrip() for line in paragraph.strip("\n").splitlines()]
        if lines and lines[0].strip() == "\b":
            block = textwrap.dedent("\n".join(lines[1:])).splitlines()
            yield from (".PP", ".nf", *map(_escape, block), ".fi")
        else:
            yield from (".PP", *(_escape(line.strip()) for line in lines))


def _escape(text: str) -> str:
    """Text that roff takes as it is: no control line, no escape, and hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text
