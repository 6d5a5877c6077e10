"""``wasm-sandboxer cache``: the compiled modules that are kept, and clearing them up."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .tables import Column, Row, age, format_option, short, show, size

if TYPE_CHECKING:
    from ..aot.listing import Entry

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_COLUMNS = (
    Column("MODULE", lambda row: row["digest"][:12]),
    Column("LEVEL", lambda row: row["level"]),
    Column("SIZE", lambda row: "-" if row["failure"] else size(row["bytes"]), right=True, rank=2),
    Column("USED", lambda row: f"{age(row['used_at'])} ago", right=True, rank=3),
    Column("ENGINE", lambda row: row["engine"], rank=4),
    Column("FAILURE", lambda row: short(row["failure"], 60) or "-", rank=1),
)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time such as 12h or 7d, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it. UsageError where it is none."""
        match = re.fullmatch(r"([0-9]+)([smhdw])", str(value), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is no time: write it like 12h or 7d", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


@click.group()
def cache() -> None:
    """List and remove compiled modules.

    \b
    Example:
      wasm-sandboxer cache ls
    """


@cache.command()
@format_option
@click.pass_context
def ls(context: click.Context, form: str) -> None:
    """List compiled modules, and compiles that failed.

    \b
    Example:
      wasm-sandboxer cache ls --format json
    """
    show((_row(entry) for entry in _entries(context)), _COLUMNS, form)


@cache.command()
@click.option("--all", "everything", is_flag=True, help="Remove all of them.")
@click.option("--unused-for", type=Duration(), metavar="TIME", help="Remove those unused for so long, as in 7d.")
@click.option("--failed", is_flag=True, help="Remove records of failures: these modules are tried again.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed.")
@click.pass_context
def prune(context: click.Context, everything: bool, unused_for: int | None, failed: bool, dry_run: bool) -> None:
    """Remove compiled modules of engines and versions that this machine does not have.

    Options remove more. A running daemon compiles again what it misses.

    \b
    Example:
      wasm-sandboxer cache prune --unused-for 7d
    """
    present = _present_engines()
    count = freed = 0
    for entry in _entries(context):
        old = unused_for is not None and entry.used_at / 1e9 < time.time() - unused_for
        if not (everything or old or (failed and entry.failure) or entry.engine not in present):
            continue
        if not dry_run:
            try:
                entry.path.unlink(missing_ok=True)
            except OSError as error:
                raise click.ClickException(f"{entry.path}: {error.strerror}") from None
        count += 1
        freed += entry.bytes
    click.echo(f"{count} {'would be ' if dry_run else ''}removed, {size(freed)}")


def _row(entry: Entry) -> Row:
    return {
        "digest": entry.digest,
        "level": entry.level,
        "engine": entry.engine,
        "bytes": entry.bytes,
        "used_at": entry.used_at,
        "failure": entry.failure,
        "path": str(entry.path),
    }


def _entries(context: click.Context) -> list[Entry]:
    from ..aot.listing import entries

    folder: Path = context.find_root().params["cache_dir"]
    try:
        return list(entries(folder))
    except FileNotFoundError:
        return []
    except PermissionError:
        raise click.ClickException(f"{folder}: permission denied: the cache belongs to root") from None
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror}") from None


def _present_engines() -> set[str]:
    """Names and versions, as entries have them."""
    from ..host import interpreters
    from .doctor import engine_version

    fine, version = engine_version()
    if not fine:
        raise click.ClickException(f"which engine is in use is not known: {version}")
    found = interpreters.wasmtime()
    return {f"wasmedge {version}"} | ({f"wasmtime {found[0]}"} if found else set())
