"""``wasm-sandboxer exec``: a program more in a container that runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import sys
from pathlib import Path

import click

from . import spec
from .client import FAILED, INVALID_ARGUMENT, REFUSED, CallFailed, Node, Row, Tasks, with_status
from .completion import CONTAINER


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass on standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, type=click.Path(path_type=Path), help="A file of NAME=VALUE lines.")
@click.option("-w", "--workdir", default="", metavar="FOLDER", help="The working directory.  [default: its own]")
@click.option("-u", "--user", default="", metavar="UID[:GID]", help="User and group.  [default: the container's]")
@click.argument("container", type=CONTAINER)
@click.argument("module")
@click.argument("args", nargs=-1)
@click.pass_context
def exec_(
    context: click.Context,
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    env_file: tuple[Path, ...],
    workdir: str,
    user: str,
    container: str,
    module: str,
    args: tuple[str, ...],
) -> None:
    """Run another module in a running container.

    It is one of the container's own file system: there is no shell where no module is one. The exit status is the
    program's, or 126 where it is no module that runs, 125 where it could not be started.

    \b
    Example:
      wasm-sandboxer exec -it web /tools/shell.wasm
    """
    from .attached import check_terminal

    check_terminal(interactive, tty)
    node = Node.of(context)
    row = node.find(container)
    own = node.container(row)["spec"]["process"]
    ids = own.get("user") or {}
    process = spec.Process(
        args=(module, *args),
        env=(*(own.get("env") or []), *(["TERM=xterm"] if tty else []), *spec.environment(env, env_file)),
        cwd=workdir or own.get("cwd") or "/",
        user=spec.user(user) if user else (ids.get("uid") or 0, ids.get("gid") or 0),
        terminal=tty,
    )
    sys.exit(asyncio.run(_run(node, row, process, interactive)))


async def _run(node: Node, row: Row, process: spec.Process, interactive: bool) -> int:
    from sandbox_api.proto import task_pb2 as pb

    from .attached import StartCancelled, run_attached
    from .streams import Streams

    tasks = await node.tasks(row["namespace"])
    container, exec_id = row["id"], f"exec-{secrets.token_hex(6)}"
    with Streams(interactive, process.terminal) as streams:
        request = pb.ExecProcessRequest(
            id=container,
            exec_id=exec_id,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            terminal=process.terminal,
        )
        request.spec.value = json.dumps(process.document()).encode()
        await tasks.tell("Exec", request)

        async def start() -> None:
            try:
                await tasks.call("Start", pb.StartRequest(id=container, exec_id=exec_id), pb.StartResponse)
            except CallFailed as error:
                text = error.message.removeprefix(f"container {container}/{exec_id}: ")
                status = REFUSED if error.code == INVALID_ARGUMENT else FAILED
                raise with_status(click.ClickException(f"{container}: {text}"), status) from None

        try:
            return await run_attached(tasks, container, exec_id, streams, process.terminal, start)
        except StartCancelled as cancelled:
            await _end(tasks, container, exec_id)
            return cancelled.status
        finally:
            await _delete(tasks, container, exec_id)


async def _delete(tasks: Tasks, container: str, exec_id: str) -> None:
    from sandbox_api.proto import task_pb2 as pb

    with contextlib.suppress(CallFailed):  # the container is gone, or it runs on
        await tasks.call("Delete", pb.DeleteRequest(id=container, exec_id=exec_id), pb.DeleteResponse)


async def _end(tasks: Tasks, container: str, exec_id: str) -> None:
    """End an exec whose start was under way. Delete waits for the start, and deletes it where that failed."""
    from sandbox_api.proto import task_pb2 as pb

    await _delete(tasks, container, exec_id)
    with contextlib.suppress(CallFailed):
        await tasks.tell("Kill", pb.KillRequest(id=container, exec_id=exec_id, signal=signal.SIGKILL))
        await tasks.call("Wait", pb.WaitRequest(id=container, exec_id=exec_id), pb.WaitResponse)
