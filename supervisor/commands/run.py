"""``wasm-sandboxer run``: a container from a module, an image archive or a folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ..aot.options import Size
from ..aot.terms import EngineMode
from ..model import labels as names
from . import spec
from .client import FAILED, INVALID_ARGUMENT, NAMESPACE, NOT_FOUND, REFUSED, CallFailed, Node, Tasks, with_status
from .progress import waiting

_NOT_FOUND, _ALREADY_EXISTS = 5, 6  # gRPC's status codes
_SANDBOXER = "wasm"
_MAGIC = b"\0asm"
_ROOT_SIZE = "64m"
_KEEPING_LOGS = {"log.console.driver": "json-file", "log.console.filesize": "4MB", "log.console.filerotate": "3"}
"""Annotations (``oci.container_log``): --dir is in memory, so that what is kept is little."""


class Processors(click.FloatRange):
    """A number of processors: 0, or as many as a control group can be given."""

    def __init__(self) -> None:
        super().__init__(min=0, max=1 << 20)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it. UsageError where it is none."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):  # which is neither less nor more than any bound
            self.fail(f"{value!r} is no number of processors", param, ctx)
        return number


@dataclass(frozen=True, slots=True)
class Source:
    """A program to run: how its root file system is mounted, and the arguments that it gives the guest."""

    kind: str
    """module, folder or image."""
    path: Path
    args: tuple[str, ...]
    volumes: tuple[spec.Volume, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""

    @classmethod
    def find(cls, text: str, args: tuple[str, ...]) -> Source:
        """Tell what ``text`` names. Raises ``ClickException``, with docker's exit statuses."""
        path, _, function = (text, "", "") if os.path.exists(text) else text.partition("#")
        found = Path(path)
        try:
            if found.is_dir():
                return cls("folder", found.resolve(), _program_of(found, args))
            if found.exists() and not found.is_file():  # a FIFO or a device may have no end
                raise _failure(f"{path}: neither a file nor a folder", REFUSED)
            with found.open("rb") as file:
                magic = file.read(len(_MAGIC))
        except OSError as error:
            raise _failure(f"{path}: {error.strerror}", NOT_FOUND) from None
        if magic != _MAGIC:
            return cls._image(found, args)
        name = "/" + (found.name if ":" not in found.name else "module.wasm")  # a preopen's name has no colon
        volume = spec.Volume(str(found.resolve()), name, readonly=True)
        return cls("module", found, (f"{name}#{function}" if function else name, *args), (volume,))

    @classmethod
    def _image(cls, path: Path, args: tuple[str, ...]) -> Source:
        from ..images.archive import ArchiveUnfit
        from ..images.unpack import read_config

        try:
            config = read_config(path)
        except (ArchiveUnfit, OSError) as error:
            raise _failure(f"{path}: not a WebAssembly module, and {error}", REFUSED) from None
        command = (*config.entrypoint, *(args or config.cmd))
        return cls("image", path, command, env=config.env, cwd=config.cwd, user=config.user)

    def rootfs(self) -> list[dict[str, Any]]:
        """Mounts of its root file system."""
        if self.kind == "module":
            return [{"type": "tmpfs", "source": "tmpfs", "options": [f"size={_ROOT_SIZE}", "mode=755"]}]
        if self.kind == "folder":
            return [{"type": "bind", "source": str(self.path), "options": ["rbind"]}]
        return []

    def fill(self, root: Path) -> None:
        """Put an image's files into the root file system's folder. Raises ``ClickException``."""
        if self.kind != "image":
            return
        from ..images.archive import ArchiveUnfit
        from ..images.unpack import unpack

        try:
            with waiting(f"unpacking {self.path}"):
                unpack(self.path, root)
        except (ArchiveUnfit, OSError) as error:
            raise _failure(f"{self.path}: {getattr(error, 'strerror', None) or error}", REFUSED) from None


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the container's id.")
@click.option("-i", "--interactive", is_flag=True, help="Pass on standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("--name", default="", help="The container's id.  [default: a random one]")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="An environment variable.")
@click.option("--env-file", multiple=True, type=click.Path(path_type=Path), help="A file of NAME=VALUE lines.")
@click.option("-v", "--volume", multiple=True, metavar="HOST:GUEST[:ro]", help="A file or folder to share.")
@click.option("-w", "--workdir", default="", metavar="FOLDER", help="The working directory.")
@click.option("-u", "--user", default="", metavar="UID[:GID]", help="User and group.  [default: 0:0]")
@click.option("--memory", type=Size(), default="0", metavar="SIZE", help="Memory limit, as in 64M.")
@click.option("--cpus", type=Processors(), default=0, help="Processor limit, as in 0.5.")
@click.option(
    "--network",
    default="none",
    show_default=True,
    metavar="host|none|PATH",
    help="The host's network, none, or that of a network namespace.",
)
@click.option(
    "--engine",
    type=click.Choice([mode.value for mode in EngineMode]),
    help="What runs it.  [default: the daemon's --engine]",
)
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it has ended.")
@click.argument("image", metavar="MODULE.wasm|IMAGE.tar|FOLDER")
@click.argument("args", nargs=-1)
@click.pass_context
def run(
    context: click.Context,
    detach: bool,
    interactive: bool,
    tty: bool,
    name: str,
    env: tuple[str, ...],
    env_file: tuple[Path, ...],
    volume: tuple[str, ...],
    workdir: str,
    user: str,
    memory: int,
    cpus: float,
    network: str,
    engine: str | None,
    remove: bool,
    image: str,
    args: tuple[str, ...],
) -> None:
    """Run a WebAssembly program in a container.

    Through the daemon at --listen; where none listens, on one that lives as long as the program. The exit status is the
    program's, or 125 where it could not be started, 126 where it is no module that runs, 127 where it is not there.

    \b
    Examples:
      wasm-sandboxer run app.wasm one two
      wasm-sandboxer run -it --rm -v .:/src:ro -w /src shell.wasm
      wasm-sandboxer run -d --name web --network host --memory 64M server.wasm
    """
    if workdir and not os.path.isabs(workdir):
        raise click.UsageError(f"-w {workdir}: write an absolute path")
    if detach and (interactive or tty):
        raise click.UsageError("-d does not go with -i or -t: there is no way to attach later")
    from .attached import check_terminal

    check_terminal(interactive, tty)
    source = Source.find(image, args)
    wanted = spec.Wanted(
        name=name or secrets.token_hex(6),
        image=image,
        process=spec.Process(
            args=source.args,
            env=(*source.env, *(["TERM=xterm"] if tty else []), *spec.environment(env, env_file)),
            cwd=workdir or source.cwd or "/",
            user=spec.user(user or source.user or "0:0"),
            terminal=tty,
        ),
        volumes=(*source.volumes, *map(spec.Volume.parse, volume)),
        memory=memory,
        cpus=cpus,
        network=network if network in ("host", "none") else os.path.abspath(network),
        engine=engine or "",
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's stays
            signal.signal(number, _exit)
    with _failing(FAILED), _node(context, detach) as node:
        container = Making(node, wanted, source, remove)
        status = asyncio.run(container.detached() if detach else container.attached(interactive))
    sys.exit(status)


def _exit(number: int, _frame: FrameType | None) -> None:
    """End as by this signal, but remove what was made so far."""
    sys.exit(128 + number)


class Making:
    """A container on its way, in a pod of its own that has its name."""

    def __init__(self, node: Node, wanted: spec.Wanted, source: Source, remove: bool) -> None:
        self._node = node
        self._wanted = wanted
        self._source = source
        self._remove = remove

    async def detached(self) -> int:
        """Start it and print its id. Its output is kept in its bundle, and goes with it."""
        with self._pod(_KEEPING_LOGS | {"log.console.file": self._log()}) as bundle:
            tasks = await self._node.tasks()
            await self._create(tasks, bundle)
            await self._start(tasks)
        click.echo(self._wanted.name)
        return 0

    async def attached(self, interactive: bool) -> int:
        """Run it with the caller's streams; its exit status."""
        from .attached import StartCancelled, run_attached
        from .streams import Streams

        terminal = self._wanted.process.terminal
        try:
            with Streams(interactive, terminal) as streams, self._pod() as bundle:
                tasks = await self._node.tasks()
                await self._create(tasks, bundle, streams.stdout, streams.stderr, streams.stdin)
                status = await run_attached(tasks, self._wanted.name, "", streams, terminal, lambda: self._start(tasks))
        except StartCancelled as cancelled:
            return cancelled.status
        if self._remove:
            remove_pod(self._node, self._wanted.name)
        return status

    def _log(self) -> str:
        """The file of its log, in the bundle that Prepare makes."""
        return f"{self._node.folder}/bundles/{NAMESPACE}/{self._wanted.name}/output.log"

    @contextlib.contextmanager
    def _pod(self, annotations: dict[str, str] | None = None) -> Iterator[str]:
        """Make the pod and hand the container over; its bundle. What fails in here removes all of it."""
        from sandbox_api.proto import controller_2023_pb2 as prepare
        from sandbox_api.proto import controller_pb2 as pb
        from sandbox_api.proto import types_pb2

        name = self._wanted.name
        labels = {names.MAKER_LABEL: names.RUN} | ({names.REMOVE_LABEL: "yes"} if self._remove else {})
        sandbox = types_pb2.Sandbox(sandbox_id=name, labels=labels)
        try:
            request = pb.ControllerCreateRequest(sandbox_id=name, sandboxer=_SANDBOXER, sandbox=sandbox)
            self._node.sandbox("Create", request, pb.ControllerCreateResponse)
        except CallFailed as error:
            if error.code == _ALREADY_EXISTS:
                raise _failure(f"{name}: there is one of that name: remove it (rm {name}) or choose another") from None
            raise
        try:
            start = pb.ControllerStartRequest(sandbox_id=name, sandboxer=_SANDBOXER)
            self._node.sandbox("Start", start, pb.ControllerStartResponse)
            new = prepare.PrepareRequest(sandboxer=_SANDBOXER, sandbox_id=name, container_id=name)
            new.spec.value = json.dumps(self._wanted.document(annotations)).encode()
            new.rootfs.extend(types_pb2.Mount(**each) for each in self._source.rootfs())
            bundle = self._node.sandbox("Prepare", new, prepare.PrepareResponse).bundle
            self._source.fill(Path(bundle, "rootfs"))
            yield bundle
        except BaseException:
            with contextlib.suppress(click.ClickException):
                remove_pod(self._node, name)
            raise

    async def _create(self, tasks: Tasks, bundle: str, stdout: str = "", stderr: str = "", stdin: str = "") -> None:
        from sandbox_api.proto import task_pb2 as pb

        terminal = self._wanted.process.terminal
        request = pb.CreateTaskRequest(
            id=self._wanted.name, bundle=bundle, stdin=stdin, stdout=stdout, stderr=stderr, terminal=terminal
        )
        await tasks.call("Create", request, pb.CreateTaskResponse)

    async def _start(self, tasks: Tasks) -> None:
        from sandbox_api.proto import task_pb2 as pb

        try:
            with waiting(f"starting {self._wanted.image}"):
                await tasks.call("Start", pb.StartRequest(id=self._wanted.name), pb.StartResponse)
        except CallFailed as error:
            text = error.message.removeprefix(f"container {self._wanted.name}: ")
            status = REFUSED if error.code == INVALID_ARGUMENT else FAILED
            raise _failure(f"{self._wanted.image}: {text}", status) from None


def remove_pod(node: Node, name: str, namespace: str = NAMESPACE) -> None:
    """Remove a pod with all that is in it. One that is gone is fine. Raises ``ClickException``."""
    from sandbox_api.proto import controller_pb2 as pb

    try:
        request = pb.ControllerShutdownRequest(sandbox_id=name, sandboxer=_SANDBOXER)
        node.sandbox("Shutdown", request, pb.ControllerShutdownResponse, namespace)
    except CallFailed as error:
        if error.code != _NOT_FOUND:
            raise


@contextlib.contextmanager
def _node(context: click.Context, detach: bool) -> Iterator[Node]:
    """The daemon that listens, or one of our own."""
    node = Node.of(context)
    if node.serves:
        yield node
        return
    if detach:
        raise _failure(f"nobody serves on {node.listen}: -d needs a daemon that stays (wasm-sandboxer)")
    from .private import PrivateDaemon

    with PrivateDaemon(context) as private:
        yield private


@contextlib.contextmanager
def _failing(status: int) -> Iterator[None]:
    """Errors in here end the command with this status, unless they have one of their own."""
    try:
        yield
    except click.ClickException as error:
        if error.exit_code == click.ClickException.exit_code:
            with_status(error, status)
        raise


def _failure(text: str, status: int = FAILED) -> click.ClickException:
    return with_status(click.ClickException(text), status)


def _program_of(folder: Path, args: tuple[str, ...]) -> tuple[str, ...]:
    """The module that a folder runs: the first argument, or the only one in it."""
    if args:
        return args
    modules = sorted(each.name for each in folder.glob("*.wasm"))
    if len(modules) != 1:
        found = f"{len(modules)} modules lie" if modules else "no module lies"
        raise _failure(
            f"{folder}: {found} in it: name the one to run after it, as in: run {folder} /app.wasm", NOT_FOUND
        )
    return (f"/{modules[0]}",)
