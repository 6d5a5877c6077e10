"""A ttrpc server on asyncio: unary methods, many in flight on a connection, any bytes survived."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket

from .. import calls
from ..errors import OutOfDescriptors
from .connection import MAX_IN_FLIGHT, MAX_WAITS, Connection, Shared
from .keeper import Keeper

__all__ = ["MAX_IN_FLIGHT", "MAX_WAITS", "Keeper", "Server"]

log = logging.getLogger(__name__)

SPARE_OF_WAITS, SPARE_OF_CLIENTS = 512, 128
"""Descriptors of this process that no pending Wait takes, and no client: a start needs a dozen while it lasts."""

_CHUNK = 1 << 18
_ACCEPTED_AT_ONCE = 64
_RETRY_SECONDS = 1.0


class Server:
    """Serves ``methods`` on a listening Unix socket until closed."""

    def __init__(self, methods: calls.Methods, keeper: Keeper | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(_CHUNK))
        self._shared = Shared(methods, keeper, self._loop, buffer, self._admit_wait, self._closed)
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_waiting = max(limit - SPARE_OF_WAITS, limit // 2)
        self._most = max(limit - SPARE_OF_CLIENTS, limit * 3 // 4)

    async def start(self, listener: socket.socket) -> None:
        """Begin to accept. The socket is the server's from now on."""
        listener.setblocking(False)
        listener.listen(1024)
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    def resume(self, key: int, sock: socket.socket) -> Connection:
        """Continue a kept connection that an earlier server had."""
        connection = Connection(self._shared, sock, key)
        self._connections.add(connection)
        return connection

    async def close(self) -> None:
        """Stop accepting, and hang up; connections that are kept stay open for the next server."""
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.hang_up(keeping=True)

    def _admit_wait(self) -> None:
        """Raises ``ResourceExhausted`` where a connection more with a pending Wait would leave too few descriptors."""
        if len(self._connections) > self._most_waiting:
            raise OutOfDescriptors(
                f"{self._most_waiting} connections are open: share one that waits, or raise the open-file limit"
            )

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if len(self._connections) == self._most - 1 and self._listener is not None and self._retry is None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        self._retry = None
        for _ in range(_ACCEPTED_AT_ONCE):
            if len(self._connections) >= self._most:  # until one is closed, clients wait in the queue
                self._loop.remove_reader(self._listener.fileno())
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors all the same
                log.error("no client more can be let in: %s", error.strerror)
                self._loop.remove_reader(self._listener.fileno())
                self._retry = self._loop.call_later(_RETRY_SECONDS, self._accept_again)
                return
            self._connections.add(Connection(self._shared, sock))

    def _accept_again(self) -> None:
        assert self._listener is not None
        self._loop.add_reader(self._listener.fileno(), self._accept)
