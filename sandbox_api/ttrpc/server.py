"""A ttrpc server on asyncio: unary methods, many in flight on a connection, any bytes survived."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Sequence
from typing import Protocol

from .. import calls
from ..errors import ResourceExhausted
from .connection import MAX_IN_FLIGHT, MAX_WAITS, Connection

__all__ = ["MAX_IN_FLIGHT", "MAX_WAITS", "Keeper", "Server"]

log = logging.getLogger(__name__)

SPARE_OF_WAITS, SPARE_OF_CLIENTS = 512, 128
"""Descriptors of this process that no pending Wait takes, and no client: a start needs a dozen while it lasts."""

_CHUNK = 1 << 18
_ACCEPTED_AT_ONCE = 64
_RETRY_SECONDS = 1.0


class Keeper(Protocol):
    """Keeps connections open when this process dies: a client takes a lost one for the end of what it waits for."""

    def keep(self, fd: int) -> int:
        """Keep a connection; a number for it, which is not 0."""

    def note(self, key: int, stream: int, note: bytes) -> None:
        """What is pending on a stream of it, for ``Server.resume``; b"" is nothing."""

    def begin(self, key: int, stream: int, method: str) -> int:
        """A call is under way on it: as a note, but cheaper. The place to end it at; 0 where it has to be noted."""

    def end_call(self, place: int) -> None:
        """The call at this place has been answered."""

    def drop(self, key: int) -> None:
        """The connection is closed."""


class Server:
    """Serves ``methods`` on a listening Unix socket until closed."""

    def __init__(self, methods: calls.Methods, keeper: Keeper | None = None) -> None:
        self.methods = methods
        self.keeper = keeper
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(_CHUNK))
        """What any connection reads into, one at a time."""
        self.closing: set[Connection] = set()
        """Connections that end once what they have to send is sent."""
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
        self.loop.add_reader(listener.fileno(), self._accept)

    def resume(self, key: int, sock: socket.socket, note: bytes, under_way: Sequence[tuple[int, str]]) -> None:
        """Go on with a connection that an earlier server had: what was noted on it, and calls by stream and method."""
        connection = Connection(self, sock)
        self._connections.add(connection)
        connection.resume(key, note, under_way)

    def keep_again(self) -> None:
        """The keeper keeps nothing any more: hand it all connections with something pending anew."""
        for connection in list(self._connections):
            connection.keep_again()

    async def close(self) -> None:
        """Accept no more, and hang up; connections that are kept stay open for the next server."""
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None:
            self.loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.hang_up(keeping=True)

    def let_wait(self) -> None:
        """Raises ``ResourceExhausted`` where a connection more with a pending Wait would leave too few descriptors."""
        if len(self._connections) > self._most_waiting:
            raise ResourceExhausted(
                f"{self._most_waiting} connections are open: share one that waits, or raise the open-file limit"
            )

    def lost(self, connection: Connection) -> None:
        """This connection is closed."""
        self._connections.discard(connection)
        self.closing.discard(connection)
        if len(self._connections) == self._most - 1 and self._listener is not None and self._retry is None:
            self.loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        self._retry = None
        for _ in range(_ACCEPTED_AT_ONCE):
            if len(self._connections) >= self._most:  # until one is closed, clients wait in the queue
                self.loop.remove_reader(self._listener.fileno())
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors all the same
                log.error("no client more can be let in: %s", error.strerror)
                self.loop.remove_reader(self._listener.fileno())
                self._retry = self.loop.call_later(_RETRY_SECONDS, self._accept_again)
                return
            self._connections.add(Connection(self, sock))

    def _accept_again(self) -> None:
        assert self._listener is not None
        self.loop.add_reader(self._listener.fileno(), self._accept)
