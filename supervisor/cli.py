"""The ``wasm-sandboxer`` command."""

from __future__ import annotations

import grp
import os
import sys
from pathlib import Path

import click

from .aot.options import Size, aot_options
from .aot.terms import EngineMode, Settings
from .commands.group import LazyGroup, Sections
from .host import interpreters

SECTIONS: Sections = {
    "Containers": {
        "run": ("run", "Run a WebAssembly program in a container."),
        "ps": ("listing", "List containers."),
        "logs": ("logs", "Show what a container has written."),
        "exec": ("exec", "Run another module in a running container."),
        "stop": ("control", "End containers, by SIGTERM and then SIGKILL."),
        "kill": ("control", "Send a signal to containers."),
        "pause": ("control", "Freeze containers."),
        "resume": ("control", "Resume paused containers."),
        "rm": ("control", "Remove containers that have ended."),
        "inspect": ("listing", "Show everything about containers, as JSON."),
        "pods": ("listing", "List pod sandboxes."),
    },
    "Watching": {
        "top": ("top", "Watch running containers in a live table."),
        "stats": ("watching", "Show the processor time and memory of containers."),
        "events": ("watching", "Show events of containers."),
    },
    "Images and compiled modules": {
        "pack": ("pack", "Make an image archive out of a WebAssembly module."),
        "warm": ("warm", "Compile modules before they are started."),
        "cache": ("cache", "List and remove compiled modules."),
    },
    "The node": {
        "doctor": ("doctor", "Check what the sandboxer needs of this host."),
        "drain": ("drain", "Stop every sandbox of a running daemon."),
        "completion": ("completion", "Print the script for completion in a shell."),
        "man": ("manual", ""),
    },
}


def _group(_context: click.Context, _parameter: click.Parameter, name: str) -> int | None:
    """The number of a group that is given by name or number."""
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise click.BadParameter(f"there is no group {name!r} (getent group)") from None


def _address(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """An address to listen at."""
    from .host.sockets import parse_address

    try:
        if text:
            parse_address(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}, as in 127.0.0.1:9473") from None
    return text


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from . import __version__  # looked up when it is used: that takes a while

        click.echo(f"wasm-sandboxer, version {__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--listen",
    type=click.Path(path_type=Path, dir_okay=False),
    default="/run/wasm-sandboxer.sock",
    envvar="WASM_SANDBOXER_LISTEN",
    show_default=True,
    help="Unix socket of the Sandbox API (gRPC); commands use the daemon that serves there.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, readable=False),  # who may not read it is told to be root
    default="/run/kuasar-wasm",
    envvar="WASM_SANDBOXER_DIR",
    show_default=True,
    help="Folder for state, mounts and the daemon's other sockets.",
)
@click.option(
    "--events",
    default="auto",
    show_default=True,
    metavar="SOCKET|auto|off",
    help="Forward task events, such as OOM kills, to containerd's ttrpc socket; 'auto' is "
    "/run/containerd/containerd.sock.ttrpc as soon as that is there.",
)
@click.option(
    "--socket-group",
    default="",
    metavar="GROUP",
    callback=_group,
    help="Group that may use the sockets beside root (mode 0660).",
)
@click.option(
    "--require-confinement",
    is_flag=True,
    help="Refuse to run where Landlock, seccomp or an empty root is missing (see: wasm-sandboxer doctor).",
)
@click.option(
    "--libwasmedge",
    type=click.Path(exists=True, path_type=Path),
    envvar=interpreters.VARIABLE,
    help="libwasmedge 0.14 to use, or a folder that has it in lib; by default the one that install-wasmedge.sh "
    "fetched, and else the system's.",
)
@click.option(
    "--metrics",
    default="",
    metavar="ADDRESS",
    callback=_address,
    help="Serve Prometheus' metrics at host:port or unix:PATH, under /metrics.",
)
@click.option("--private", is_flag=True, hidden=True, help="End with standard input, and leave nothing behind.")
@aot_options(mode=True)
@click.option(
    "--engine",
    type=click.Choice([mode.value for mode in EngineMode]),
    default=EngineMode.AUTO.value,
    show_default=True,
    help="Engine of containers that name none: 'auto' is WasmEdge, and Wasmtime for components and for modules that "
    "WasmEdge refuses or cannot compile.",
)
@click.option(
    "--renew-forkserver",
    "renew",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="Start a fresh forkserver when nothing has run for so long: all its workers have one memory layout. 0: never.",
)
@click.option(
    "--images",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    help="Start a compiled module from an image of it loaded, once it was started twice.",
)
@click.option(
    "--image-memory",
    type=Size(),
    default="256M",
    show_default=True,
    help="Memory that all images may take; those used last stay.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level that is logged to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="'json' is an object a line. The journal gets fields of its own with 'text'.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def main(
    context: click.Context,
    listen: Path,
    folder: Path,
    events: str,
    socket_group: int | None,
    require_confinement: bool,
    metrics: str,
    private: bool,
    libwasmedge: Path | None,
    log_level: str,
    log_format: str,
    engine: str,
    renew: float,
    images: str,
    image_memory: int,
    aot: Settings,
) -> None:
    """Run WebAssembly workloads as isolated processes, for people, iSulad and containerd.

    Without a command it is the daemon: it serves until SIGTERM or SIGINT.

    \b
    Examples:
      wasm-sandboxer run app.wasm            # starts a daemon of its own where none runs
      wasm-sandboxer ps -a
    """
    if libwasmedge is not None:
        os.environ[interpreters.VARIABLE] = str(libwasmedge.absolute())
    if context.invoked_subcommand is not None:
        return
    # This process never forks but to exec. gRPC would stop and start its threads around that, too, and wait for
    # new ones where there are none to be had.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    import asyncio

    # Imported here: gRPC takes longer to load than the other commands take to run.
    from .daemon import CannotStart, Daemon
    from .host import logs
    from .options import Options

    logs.begin(log_level, log_format)

    async def serve() -> None:
        options = Options(
            listen=listen.absolute(),
            folder=folder.absolute(),
            aot=aot,
            events=events,
            socket_group=socket_group,
            require_confinement=require_confinement,
            engine=EngineMode(engine),
            renew=renew,
            image_memory=image_memory if images == "on" else 0,
            metrics=metrics,
            private=private,
        )
        await Daemon(options).run()

    try:
        asyncio.run(serve())
    except CannotStart as error:
        click.echo(f"wasm-sandboxer: {error}", err=True)
        sys.exit(1)
