"""``wasm-sandboxer warm``: fill the cache before anything is started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from workers.start_request import WASMEDGE

from ..aot.cache import CacheUnusable
from ..aot.options import aot_options
from ..aot.policy import Aot
from ..aot.terms import EngineLibrary, Failure, Level, Settings
from ..images.archive import ArchiveUnfit, programs
from .doctor import engine_version

_MAGIC = b"\0asm"
_AT_ONCE = 4  # modules; one is compiled at a time on each level


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    file: IO[bytes]


@click.command()
@click.argument("files", metavar="MODULE|IMAGE-ARCHIVE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@aot_options(mode=False)
def warm(files: tuple[Path, ...], aot: Settings) -> None:
    """Compile modules, or the programs of image archives, before they are started.

    The sandboxer finds what is made here when it uses the same --cache-dir, running or not.

    \b
    Example:
      wasm-sandboxer warm app.wasm app.tar
    """
    if os.geteuid() != 0:
        raise click.ClickException("the cache belongs to root: run this as root")
    fine, engine = engine_version()
    if not fine:
        raise click.ClickException(engine)
    logging.getLogger("supervisor.aot.compiling").setLevel(logging.ERROR)  # what it warns of is told at the end
    unread: list[str] = []
    modules: list[_Module] = []
    for path in files:
        try:
            modules += _modules(path)
        except (ArchiveUnfit, OSError) as error:
            unread.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    try:
        with _progress(len(modules) * len(Level)) as (done, line):
            fine = asyncio.run(_compile(modules, aot, engine, done, line))
    except CacheUnusable as error:
        raise click.ClickException(str(error)) from None
    for text in unread:
        click.echo(text, err=True)
    if unread or not fine:
        sys.exit(1)


def _modules(path: Path) -> Iterator[_Module]:
    file = path.open("rb")
    if file.read(len(_MAGIC)) == _MAGIC:
        yield _Module(str(path), file)
        return
    file.close()
    for program in programs(path):
        yield _Module(f"{path}: {program.name}", program.file)


async def _compile(
    modules: list[_Module], settings: Settings, engine: str, done: Callable[[], None], line: Callable[[str], None]
) -> bool:
    """Compile all; whether there is something better than the interpreter for each."""
    some = asyncio.Semaphore(_AT_ONCE)
    aot = Aot(settings, eager=True)
    await aot.start(EngineLibrary(WASMEDGE, engine))

    async def one(module: _Module) -> bool:
        levels: dict[Level, Failure | None] = {}
        try:
            async with some:
                async for level, failure in aot.compile(module.file.fileno()):
                    levels[level] = failure
                    done()
        except (OSError, ValueError) as error:
            line(f"{module.name}: {error}")
            return False
        line(f"{module.name}: {_summary(levels)}")
        return None in levels.values()

    try:
        return all(await asyncio.gather(*(one(module) for module in modules)))
    finally:
        await aot.close()


def _summary(levels: dict[Level, Failure | None]) -> str:
    made = [level.name for level, failure in levels.items() if failure is None]
    failed = [f"{level.name} {failure}" for level, failure in levels.items() if failure is not None]
    return "; ".join([f"compiled ({made[-1]})" if made else "not compiled", *failed])


@contextlib.contextmanager
def _progress(length: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """Callbacks for each step and for each line to be shown: under a bar at its end, or at once."""
    if not sys.stdout.isatty():
        yield lambda: None, click.echo
        return
    lines: list[str] = []
    with click.progressbar(length=length, label="compiling") as bar:
        yield lambda: bar.update(1), lines.append
    for text in lines:
        click.echo(text)
