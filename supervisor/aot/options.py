"""The command line's options on compilation, which the daemon and ``warm`` share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .terms import Limits, Mode, Settings

T = TypeVar("T")

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, as a number with or without K, M, G or T (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it. UsageError where it is none."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+)([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE | re.ASCII)
        if match is None:
            self.fail(f"{value!r} is no size: write it like 512M or 2G", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


def wanted(name: str, value: T) -> T:
    """An option's value; where it is given before the subcommand alone, the value that it has there."""
    context = click.get_current_context()
    if context.parent is None or context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
        return value
    given: T = context.find_root().params[name]
    return given


_MODE = click.option(
    "--aot",
    "aot_mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.AUTO.value,
    show_default=True,
    help="Compile modules: 'auto' runs the best there is, 'always' waits for the first result, 'never' interprets.",
)
_OPTIONS = (
    click.option(
        "--cache-dir",
        type=click.Path(path_type=Path, file_okay=False, readable=False),  # who may not read it is told to be root
        default="/var/cache/wasm-sandboxer",
        show_default=True,
        help="Folder for compiled modules.",
    ),
    click.option(
        "--cache-size", type=Size(), default="2G", show_default=True, help="Size limit of all compiled modules."
    ),
    click.option(
        "--aot-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=300,
        show_default=True,
        metavar="SECONDS",
        help="Processor time that one compile may take; more in proportion for a module over 8 MiB.",
    ),
    click.option(
        "--aot-memory",
        type=Size(),
        default="2G",
        show_default=True,
        help="Memory that one compile may take; more in "
        "proportion for a module over 8 MiB, up to half of what is free.",
    ),
)


def aot_options(mode: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options, with ``--aot`` or without, as one argument ``aot``."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def call(
            *args: Any,
            cache_dir: Path,
            cache_size: int,
            aot_timeout: float,
            aot_memory: int,
            aot_mode: str = Mode.AUTO,
            **kwargs: Any,
        ) -> None:
            limits = Limits(wanted("aot_timeout", aot_timeout), wanted("aot_memory", aot_memory))
            folder, size = wanted("cache_dir", cache_dir), wanted("cache_size", cache_size)
            function(*args, aot=Settings(Mode(aot_mode), folder.absolute(), size, limits), **kwargs)

        for option in reversed(((_MODE,) if mode else ()) + _OPTIONS):
            call = option(call)
        return call

    return decorate
