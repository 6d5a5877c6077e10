"""A daemon's servers, each on its socket: ttrpc, gRPC, the read-only service, metrics."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_api import calls, grpc_server
from sandbox_api.ttrpc.server import Server
from workers import relay_protocol

from .host import sockets
from .host.http import HttpServer
from .ipc.relay import Kept, RelayClient
from .options import Options
from .services.inspection import Inspection

if TYPE_CHECKING:
    from .services.metrics import Sources


class Servers:
    """Serves what it is given. What has to be closed is pushed on the caller's ``cleanup``."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.grpc: list[grpc_server.Server] = []

    async def serve_ttrpc(
        self, cleanup: AsyncExitStack, relay: RelayClient, methods: calls.Methods, kept: list[Kept]
    ) -> None:
        """Serve the Task API, first of all to connections that an earlier daemon had. Raises ``SocketTaken``."""
        server = Server(methods, relay)
        cleanup.push_async_callback(server.close)
        for each in kept:
            connection = server.resume(each.key, socket.socket(fileno=each.fd))
            for call in each.pending:
                connection.resume(call.place, call.stream, call.request)
        await server.start(relay.listen(relay_protocol.TASKS, self._options.task_socket.absolute()).dup())

    async def serve_grpc(self, relay: RelayClient, methods: calls.Methods, number: int) -> None:
        """Serve on a socket of our own, behind the relay: gRPC's library takes no listening socket from elsewhere."""
        server = grpc_server.Server(methods)
        path = self._options.folder.absolute() / f"grpc-{number}.sock"
        path.unlink(missing_ok=True)
        with sockets.private():
            server.inner.add_insecure_port(f"unix:{path}")
        self.grpc.append(server)
        await server.inner.start()
        relay.forward(number, str(path))

    async def serve_info(self, cleanup: AsyncExitStack, inspection: Inspection) -> None:
        """Serve people and their tools, read-only."""
        server = HttpServer(inspection.answer)
        path = self._options.info_socket
        await server.start(sockets.listen(path))
        cleanup.push_async_callback(server.close)
        cleanup.callback(path.unlink, missing_ok=True)
        sockets.give_to_group(path, self._options.socket_group)

    async def serve_metrics(self, cleanup: AsyncExitStack, sources: Sources) -> None:
        """Serve Prometheus."""
        from .services.metrics import Metrics  # only where they are wanted: its library is large

        server = HttpServer(Metrics(sources).answer)
        listener = sockets.listen_at(self._options.metrics)
        await server.start(listener)
        cleanup.push_async_callback(server.close)
        if listener.family == socket.AF_UNIX:
            path = Path(listener.getsockname())
            sockets.give_to_group(path, self._options.socket_group)
            cleanup.callback(path.unlink, missing_ok=True)
