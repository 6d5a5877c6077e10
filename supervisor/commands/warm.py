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

from workers.start_request import WASMEDGE, WASMTIME

from ..aot.cache import CacheUnusable
from ..aot.choice import is_component
from ..aot.options import aot_options, wanted
from ..aot.policy import Aot
from ..aot.terms import EngineLibrary, EngineMode, Level, Settings
from ..host import interpreters
from ..host.logs import one_line
from ..images.archive import ArchiveUnfit, programs
from .doctor import engine_version

_MAGIC = b"\0asm"
_INTERPRETED = "not compiled, and so interpreted"
_AT_ONCE = 4  # modules; one is compiled at a time on each level


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    file: IO[bytes]


@click.command()
@click.argument("files", metavar="MODULE|IMAGE-ARCHIVE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@aot_options(mode=False)
@click.option(
    "--engine",
    type=click.Choice([mode.value for mode in EngineMode]),
    default="auto",
    show_default=True,
    help="As the daemon's.",
)
def warm(files: tuple[Path, ...], aot: Settings, engine: str) -> None:
    """Compile modules, or the programs of image archives, before they are started.

    Each is compiled for the engine that would run it, which is told. The sandboxer finds what is made here when it uses
    the same --cache-dir, running or not.

    \b
    Example:
      wasm-sandboxer warm app.wasm app.tar
    """
    if os.geteuid() != 0:
        raise click.ClickException("the cache belongs to root: run this as root")
    fine, version = engine_version()
    if not fine:
        raise click.ClickException(version)
    logging.getLogger("supervisor.aot.compiling").setLevel(logging.ERROR)  # what it warns of is told at the end
    unread: list[str] = []
    modules: list[_Module] = []
    for path in files:
        try:
            modules += _modules(path)
        except (ArchiveUnfit, OSError) as error:
            unread.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    try:
        with _progress(len(modules)) as (done, line):
            fine = asyncio.run(_compile(modules, aot, version, EngineMode(wanted("engine", engine)), done, line))
    except CacheUnusable as error:
        raise click.ClickException(str(error)) from None
    for text in unread:
        click.echo(one_line(text), err=True)
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
    modules: list[_Module],
    settings: Settings,
    version: str,
    asked: EngineMode,
    done: Callable[[], None],
    line: Callable[[str], None],
) -> bool:
    """Compile all; whether there is something better than the interpreter for each."""
    some = asyncio.Semaphore(_AT_ONCE)
    wasmedge = Aot(settings, eager=True)
    await wasmedge.start(EngineLibrary(WASMEDGE, version))
    wasmtime = Aot(settings, eager=True, levels=(Level.O2,))
    if found := interpreters.wasmtime():
        await wasmtime.start(EngineLibrary(WASMTIME, *found))

    async def one(module: _Module) -> bool:
        try:
            async with some:
                fine, told = await _compile_one(module.file.fileno(), wasmedge, wasmtime, asked)
        except (OSError, ValueError) as error:
            fine, told = False, str(error)
        done()
        line(one_line(f"{module.name}: {told}"))
        return fine

    try:
        return all(await asyncio.gather(*(one(module) for module in modules)))
    finally:
        await wasmedge.close()
        await wasmtime.close()


async def _compile_one(module: int, wasmedge: Aot, wasmtime: Aot, asked: EngineMode) -> tuple[bool, str]:
    """Compile a module for the engine that would run it: whether that was done, and what to tell.

    Raises ``ValueError`` where it is none that can be compiled, and ``OSError``.
    """
    reasons: list[str] = []
    component = is_component(module)
    if asked is not EngineMode.WASMTIME and not component:
        levels = {level: failure async for level, failure in wasmedge.compile(module)}
        made = [level.name for level, failure in levels.items() if failure is None]
        failed = [f"{level.name} {failure}" for level, failure in levels.items() if failure is not None]
        if made or asked is EngineMode.WASMEDGE:
            return bool(made), "; ".join([f"compiled for WasmEdge ({made[-1]})" if made else _INTERPRETED, *failed])
        reasons.append(f"WasmEdge: {'; '.join(failed)}")
    elif component and asked is EngineMode.WASMEDGE:
        return False, "not compiled: it is a component, and WasmEdge runs none"
    if not wasmtime.active:
        reasons.append("Wasmtime is not here: wasm-sandboxer doctor says how to install it")
    else:
        failure = {level: failure async for level, failure in wasmtime.compile(module)}[Level.O2]
        if failure is None:
            return True, "; ".join(["compiled for Wasmtime", *reasons])
        reasons.append(f"Wasmtime: {failure}")
    interpreted = not component and asked is EngineMode.AUTO
    return False, "; ".join([_INTERPRETED if interpreted else "not compiled", *reasons])


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
