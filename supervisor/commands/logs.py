"""``wasm-sandboxer logs``: what a container wrote, where that is kept on this node."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import click

from .client import Away, Node, Row
from .completion import CONTAINER

_LOOK_SECONDS = 0.1
"""Seconds between two looks at a log that is followed."""
_AWAY_SECONDS = 10.0
"""Seconds for which a log is followed without a daemon."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the container ends.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Show the last N lines alone.")
@click.argument("container", type=CONTAINER)
@click.pass_context
def logs(context: click.Context, follow: bool, tail: int | None, container: str) -> None:
    """Show what a container has written.

    Logs are here for run -d, and for engines that have them written here (iSulad). containerd keeps the logs of its
    containers itself; then the command names their place.

    \b
    Example:
      wasm-sandboxer logs -f --tail 20 web
    """
    node = Node.of(context)
    row = node.container(node.find(container))
    log = row["log"]
    if "path" not in log:
        raise click.ClickException(f"{row['id']}: no log is kept here: {log['hint']}")
    show = _show_json if log["format"] == "json-file" else _show_raw
    try:
        lines = _read(Path(log["path"]), _Running(node, row) if follow else None)
        for line in deque(_until_now(lines), tail) if tail is not None else _until_now(lines):
            show(line)
        for line in _until_now(lines):
            show(line)
    except PermissionError:
        raise click.ClickException(f"{log['path']}: permission denied: run this as root") from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer is not to be complained about


def _until_now(lines: Iterator[bytes | None]) -> Iterator[bytes]:
    for line in lines:
        if line is None:
            return
        yield line


def _read(path: Path, runs: Callable[[], bool] | None) -> Iterator[bytes | None]:
    """The lines of a log, of the files that were rotated away first; then None, and with ``runs`` those that come while
    that is true. A line that has no end yet comes in pieces only at the very end."""
    for each in _rotated(path):
        with contextlib.suppress(FileNotFoundError), each.open("rb") as old:  # it may be rotated out of existence
            yield from old
    with contextlib.ExitStack() as stack:
        file: IO[bytes] | None = None
        part = b""
        now = False
        while True:
            # before the look at the file: what was written until then is in it
            more = runs() if runs is not None and now else runs is not None
            if file is None or _replaced(file, path):
                with contextlib.suppress(FileNotFoundError):
                    new = stack.enter_context(path.open("rb"))
                    if file is not None:
                        yield from file  # the rest of the one that was rotated away
                    file = new
            for line in file or ():
                part += line
                if part.endswith(b"\n"):
                    yield part
                    part = b""
            if not now:
                now = True
                if not more and part:
                    yield part
                yield None
            elif more:
                time.sleep(_LOOK_SECONDS)
            if not more:
                if part and runs is not None:
                    yield part
                return


def _replaced(file: IO[bytes], path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:  # between two renames
        return False


def _rotated(path: Path) -> list[Path]:
    """Files that a log was rotated to, path.1 and so on, the oldest first."""
    numbers = sorted(
        (
            int(each.suffix[1:])
            for each in path.parent.glob(f"{glob.escape(path.name)}.*")
            if each.suffix[1:].isdecimal()
        ),
        reverse=True,
    )
    return [path.with_name(f"{path.name}.{number}") for number in numbers]


class _Running:
    """Tells whether a container runs; where it does not, its log is complete."""

    def __init__(self, node: Node, row: Row) -> None:
        self._node, self._row = node, row
        self._seen = time.monotonic()

    def __call__(self) -> bool:
        """Look. A daemon that is away may be back soon, and what runs goes on meanwhile. Raises ``Away``."""
        try:
            if self._node.find(f"{self._row['namespace']}/{self._row['id']}")["state"] in ("stopped", "created"):
                asyncio.run(_wait(self._node, self._row))
                return False
        except Away:
            if time.monotonic() - self._seen > _AWAY_SECONDS:
                raise
            return True
        except click.ClickException:  # removed
            return False
        self._seen = time.monotonic()
        return True


async def _wait(node: Node, row: Row) -> None:
    """Wait for the end of a container that has ended: it is answered when its log is complete."""
    from sandbox_api.proto import task_pb2 as pb

    if row["state"] != "created":
        tasks = await node.tasks(row["namespace"])
        await tasks.call("Wait", pb.WaitRequest(id=row["id"]), pb.WaitResponse)


def _show_raw(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _show_json(line: bytes) -> None:
    try:
        entry = json.loads(line)
        stream = sys.stderr if entry["stream"] == "stderr" else sys.stdout
        stream.buffer.write(entry["log"].encode())
    except (ValueError, KeyError, TypeError, AttributeError):  # cut, by a full disk say
        return
    stream.buffer.flush()
