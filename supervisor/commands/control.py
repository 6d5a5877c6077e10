"""``stop``, ``kill``, ``pause``, ``resume`` and ``rm``: changes to containers that are there."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import click

from ..model.labels import RUN
from .client import CallFailed, Node, Row, Tasks
from .completion import CONTAINER

_NOT_FOUND = 5  # gRPC's status code
_KILL_SECONDS = 30

_containers = click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True, type=CONTAINER)


class SignalType(click.ParamType):  # type: ignore[type-arg]
    """A signal by its number or name, with or without SIG."""

    name = "signal"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Its number. UsageError where there is none."""
        text = str(value).upper().removeprefix("SIG")
        try:
            return int(signal.Signals(int(text)) if text.isdecimal() else signal.Signals[f"SIG{text}"])
        except (KeyError, ValueError):
            self.fail(f"there is no signal {value!r} (kill -l lists them)", param, ctx)


@click.command()
@click.option(
    "-t",
    "--time",
    "seconds",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL.",
)
@_containers
@click.pass_context
def stop(context: click.Context, seconds: int, containers: tuple[str, ...]) -> None:
    """End containers, by SIGTERM and then SIGKILL.

    \b
    Example:
      wasm-sandboxer stop -t 3 web
    """

    async def end(tasks: Tasks, row: Row) -> None:
        if seconds:
            await _send(tasks, row, signal.SIGTERM)
            if await _ended(tasks, row, seconds):
                return
        await _send(tasks, row, signal.SIGKILL)
        if not await _ended(tasks, row, _KILL_SECONDS):
            raise click.ClickException(f"{row['id']}: it does not end after SIGKILL")

    _each(context, containers, end)


@click.command()
@click.option("-s", "--signal", "number", type=SignalType(), default="KILL", show_default=True, help="Signal to send.")
@_containers
@click.pass_context
def kill(context: click.Context, number: int, containers: tuple[str, ...]) -> None:
    """Send a signal to containers.

    \b
    Example:
      wasm-sandboxer kill -s USR1 web
    """

    async def send(tasks: Tasks, row: Row) -> None:
        if row["state"] == "stopped" or not await _send(tasks, row, number):
            raise click.ClickException(f"{row['id']}: it has ended")

    _each(context, containers, send)


@click.command()
@_containers
@click.pass_context
def pause(context: click.Context, containers: tuple[str, ...]) -> None:
    """Freeze all processes of containers.

    \b
    Example:
      wasm-sandboxer pause web
    """
    from sandbox_api.proto import task_pb2 as pb

    _each(context, containers, lambda tasks, row: tasks.tell("Pause", pb.PauseRequest(id=row["id"])))


@click.command()
@_containers
@click.pass_context
def resume(context: click.Context, containers: tuple[str, ...]) -> None:
    """Resume paused containers.

    \b
    Example:
      wasm-sandboxer resume web
    """
    from sandbox_api.proto import task_pb2 as pb

    _each(context, containers, lambda tasks, row: tasks.tell("Resume", pb.ResumeRequest(id=row["id"])))


@click.command()
@click.option("-f", "--force", is_flag=True, help="Those that run, too, and those of engines.")
@_containers
@click.pass_context
def rm(context: click.Context, force: bool, containers: tuple[str, ...]) -> None:
    """Remove containers that have ended, with their logs.

    Containers of an engine are the engine's to remove. With --force they are removed all the same.

    \b
    Example:
      wasm-sandboxer rm -f web
    """
    node = Node.of(context)

    async def remove(tasks: Tasks, row: Row) -> None:
        if row["maker"] != RUN and not force:
            raise click.ClickException(
                f"{row['id']}: it was made by {row['maker']}, which is to remove it; --force removes it nevertheless"
            )
        if row["state"] != "stopped" and row["state"] != "created" and not force:
            raise click.ClickException(f"{row['id']}: it is {row['state']}: stop it first, or use --force")
        await _remove(node, tasks, row)

    _each(context, containers, remove)


async def _remove(node: Node, tasks: Tasks, row: Row) -> None:
    from sandbox_api.proto import task_pb2 as pb

    from .run import remove_pod

    if row["maker"] == RUN:
        remove_pod(node, row["pod"], row["namespace"])
        return
    try:
        if row["state"] not in ("stopped", "created"):
            await _send(tasks, row, signal.SIGKILL)
            await _ended(tasks, row, _KILL_SECONDS)
        await tasks.call("Delete", pb.DeleteRequest(id=row["id"]), pb.DeleteResponse)
    except CallFailed as error:
        if error.code != _NOT_FOUND:
            raise


async def _send(tasks: Tasks, row: Row, number: int) -> bool:
    """Send a signal to all of a container's processes; false where they have ended."""
    from sandbox_api.proto import task_pb2 as pb

    try:
        await tasks.tell("Kill", pb.KillRequest(id=row["id"], signal=number, all=True))
    except CallFailed as error:
        if error.code != _NOT_FOUND:
            raise
        return False
    return True


async def _ended(tasks: Tasks, row: Row, seconds: float) -> bool:
    """Wait for a container to end, for so long; whether it has."""
    from sandbox_api.proto import task_pb2 as pb

    try:
        async with asyncio.timeout(seconds):
            await tasks.call("Wait", pb.WaitRequest(id=row["id"]), pb.WaitResponse)
    except TimeoutError:
        return False
    except CallFailed as error:
        if error.code != _NOT_FOUND:  # removed by another client
            raise
    return True


def _each(context: click.Context, containers: tuple[str, ...], change: Callable[[Tasks, Row], Awaitable[None]]) -> None:
    """Change each container and print its name; go on after a failure, and end with 1 then."""
    node = Node.of(context)

    async def one(name: str) -> bool:
        try:
            row = node.find(name)
            tasks = await node.tasks(row["namespace"])
            try:
                await change(tasks, row)
            finally:
                tasks.close()
        except click.ClickException as error:
            error.show()
            return False
        click.echo(name)
        return True

    async def every() -> bool:
        return all([await one(name) for name in containers])

    if not asyncio.run(every()):
        sys.exit(1)
