"""``wasm-sandboxer drain``: end every instance of a running daemon, before it is taken away for good."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import click


@click.command()
@click.option(
    "--timeout",
    type=click.IntRange(min=0, max=86400),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL.",
)
@click.pass_context
def drain(context: click.Context, timeout: int) -> None:
    """Stop every sandbox of the daemon that serves on --listen and works in --dir.

    Their instances end; stopped containers stay known until their client removes them.

    \b
    Example:
      wasm-sandboxer drain --timeout 30
    """
    # Imported here: gRPC takes longer to load than the other commands take to run.
    import grpc

    from sandbox_api.grpc_server import NAMESPACE_KEY, SANDBOX_SERVICE
    from sandbox_api.proto import controller_pb2 as pb

    assert context.parent is not None
    listen: Path = context.parent.params["listen"]
    found = _not_stopped(context.parent.params["folder"] / "state.db")
    failed = 0
    with (
        grpc.insecure_channel(f"unix:{listen.absolute()}") as channel,
        click.progressbar(found, label="stopping sandboxes", show_pos=True) as sandboxes,
    ):
        stop = channel.unary_unary(
            f"/{SANDBOX_SERVICE}/Stop",
            pb.ControllerStopRequest.SerializeToString,
            pb.ControllerStopResponse.FromString,
        )
        shutdown = channel.unary_unary(
            f"/{SANDBOX_SERVICE}/Shutdown",
            pb.ControllerShutdownRequest.SerializeToString,
            pb.ControllerShutdownResponse.FromString,
        )
        for namespace, sandbox_id, state in sandboxes:
            metadata, most = ((NAMESPACE_KEY, namespace),), timeout + 60
            try:
                if state == "created":  # its engine died before it was started: nobody will ask for it again
                    shutdown(pb.ControllerShutdownRequest(sandbox_id=sandbox_id), metadata=metadata, timeout=most)
                    continue
                request = pb.ControllerStopRequest(sandbox_id=sandbox_id, timeout_secs=timeout)
                stop(request, metadata=metadata, timeout=most)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    continue
                failed += 1
                click.echo(f"sandbox {sandbox_id}: {error.details()}", err=True)
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise click.ClickException(f"nobody serves on {listen}: is the daemon running?") from None
    if failed:
        raise click.ClickException(f"{failed} sandboxes were not stopped")
    click.echo(f"{len(found)} sandboxes stopped")


def _not_stopped(state: Path) -> list[tuple[str, str, str]]:
    """Namespace, id and state of every sandbox that is not stopped, by the state file. Raises ``ClickException``."""
    try:
        with sqlite3.connect(f"file:{state}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT namespace, id, state FROM sandboxes WHERE state != 'notready'")
            return rows.fetchall()
    except sqlite3.Error as error:
        raise click.ClickException(f"{state}: {error}: is --dir the daemon's?") from None
