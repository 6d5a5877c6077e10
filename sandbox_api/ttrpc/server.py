"""A ttrpc server on asyncio: unary methods, many in flight on a connection, any bytes survived."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from .. import calls, status
from ..errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    SandboxerError,
    Unavailable,
    Unimplemented,
)
from ..proto import ttrpc_pb2 as pb
from . import frames

log = logging.getLogger(__name__)

Methods = Mapping[tuple[str, str], calls.Handler]
"""Handlers by service and method name."""

_NAMESPACE_KEY = "containerd-namespace-ttrpc"
_CHUNK = 1 << 18
MAX_IN_FLIGHT = 1024
"""Calls a connection may have under way; more are refused, not queued."""


class Keeper(Protocol):
    """Keeps connections open when this process dies: a client takes a lost one for the end of what it waits for."""

    def keep(self, fd: int, note: bytes) -> int:
        """Keep a connection, with a note of what is pending on it; a number for it."""

    def note(self, key: int, note: bytes) -> None:
        """Replace the note."""

    def drop(self, key: int) -> None:
        """The connection is closed."""


class Server:
    """Serves ``methods`` on a listening Unix socket until closed."""

    def __init__(self, methods: Methods, keeper: Keeper | None = None) -> None:
        self._methods = methods
        self._keeper = keeper
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Begin to accept. The socket is the server's from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Connection(self._methods, self._connections, self._keeper), sock=listener, backlog=1024
        )

    async def resume(self, key: int, sock: socket.socket, note: bytes) -> None:
        """Go on with a connection that an earlier server had, and what was pending on it."""
        connection = _Connection(self._methods, self._connections, self._keeper)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        connection.resume(key, note)

    def keep_again(self) -> None:
        """The keeper has lost, or will lose, what it kept: hand it all connections with something pending anew."""
        for connection in list(self._connections):
            connection.keep_again()

    async def close(self) -> None:
        """Accept no more, and hang up; connections that are kept stay open for the next server."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.hang_up(keeping=True)


class _Connection(asyncio.Protocol):
    """One client. A node has one for each pending Wait, so it stays small."""

    __slots__ = (
        "_calls",
        "_decoder",
        "_everyone",
        "_keeper",
        "_key",
        "_methods",
        "_noted",
        "_peeking",
        "_pending",
        "_transport",
    )

    def __init__(self, methods: Methods, everyone: set[_Connection], keeper: Keeper | None) -> None:
        self._methods = methods
        self._everyone = everyone
        self._keeper = keeper
        self._key = 0
        self._pending: dict[int, bytes] = {}  # requests by stream, as frames: of a Wait whole, of others the name
        self._noted: set[int] = set()  # streams of the note we began with: their requests may still be in the socket
        self._peeking: socket.socket | None = None
        self._decoder = frames.Decoder()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._everyone.add(self)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("task client connected: %s", _peer(transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self._everyone.discard(self)
        self._stop_peeking()
        self._transport = None
        if self._key and self._keeper is not None:
            self._keeper.drop(self._key)
        for task in self._calls.values():
            task.cancel()

    def hang_up(self, keeping: bool = False) -> None:
        """End this connection once what was answered has gone out; with ``keeping``, only our part in a kept one."""
        if keeping:
            self._key = 0
        self._stop_peeking()
        if self._transport is not None:
            self._transport.close()

    def resume(self, key: int, note: bytes) -> None:
        """Begin again what an earlier server had pending: Waits, that is; of others nobody knows how far they came."""
        self._key = key
        self._peek()
        for frame in frames.Decoder().feed(note):
            request = pb.Request.FromString(frame.message)
            if calls.abandonable(request.method):
                self._take(frame)
            else:
                error = Unavailable(f"{request.method}: the sandboxer was started anew in the middle of it")
                self._answer(frame.stream, status.of(error, request.method), b"")
            self._noted.add(frame.stream)
        self._note()

    def keep_again(self) -> None:
        """Have this connection kept anew, if it was."""
        if self._key and self._keeper is not None and self._transport is not None:
            self._keeper.drop(self._key)
            sock: socket.socket = self._transport.get_extra_info("socket")
            self._key = self._keeper.keep(sock.fileno(), b"".join(self._pending.values()))

    def _peek(self) -> None:
        """Take a kept connection's requests from the socket only once they are noted.

        A request that was read by a process that then died would else be answered by nobody.
        """
        if self._peeking is None and self._transport is not None:
            sock: socket.socket = self._transport.get_extra_info("socket")
            try:
                self._peeking = socket.socket(fileno=os.dup(sock.fileno()))
            except OSError as error:
                log.warning("a request that dies with this process may go unanswered: %s", error)
                return
            self._transport.pause_reading()
            asyncio.get_running_loop().add_reader(self._peeking, self._peeked)

    def _stop_peeking(self) -> None:
        if self._peeking is not None:
            asyncio.get_running_loop().remove_reader(self._peeking)
            self._peeking.close()
            self._peeking = None

    def _peeked(self) -> None:
        assert self._peeking is not None
        sock = self._peeking
        try:
            data = sock.recv(_CHUNK, socket.MSG_PEEK)
            whole = 0 if self._decoder.partial else frames.whole(data)
            if whole:
                self.data_received(data[:whole])
            if data:
                rest = sock.recv(whole or len(data))
                if not whole:  # of a frame that does not come in one piece there can be no note yet
                    self.data_received(rest)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.hang_up()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except frames.BrokenFrame as error:
            log.warning("task client hung up on: %s", error)
            self._answer(error.stream, status.of(ResourceExhausted(str(error)), "ttrpc"), b"")
            self.hang_up()

    def _take(self, frame: frames.Frame) -> None:
        if frame.type != frames.REQUEST:
            return  # a stream's data: nothing here streams
        if frame.stream in self._noted:
            self._noted.discard(frame.stream)  # the one before us noted it, and died before it took it
            return
        try:
            self._begin(frame.stream, frame.message)
        except SandboxerError as error:
            self._answer(frame.stream, status.of(error, "ttrpc"), b"")

    def _begin(self, stream: int, message: bytes) -> None:
        try:
            request = pb.Request.FromString(message)
        except DecodeError as error:
            raise InvalidArgument(f"not a ttrpc request: {error}") from None
        handler = self._methods.get((request.service, request.method))
        if handler is None:
            raise Unimplemented(f"nobody serves {request.service[:200]}/{request.method[:200]}")
        if stream in self._calls or not stream & 1:
            raise InvalidArgument(f"stream {stream} is in use, or not a client's (they are odd)")
        if len(self._calls) >= MAX_IN_FLIGHT:
            raise ResourceExhausted(f"{MAX_IN_FLIGHT} calls are under way on this connection: wait for answers")
        namespace = next((pair.value for pair in request.metadata if pair.key == _NAMESPACE_KEY), "")
        call = calls.run(request.method, handler, namespace or calls.DEFAULT_NAMESPACE, request.payload)
        self._calls[stream] = asyncio.ensure_future(self._serve(stream, request.method, call, request.timeout_nano))
        if self._keeper is not None:
            waits = calls.abandonable(request.method)
            kept = message if waits else pb.Request(method=request.method).SerializeToString()
            self._pending[stream] = frames.encode(stream, frames.REQUEST, kept)
            self._note(waits)

    async def _serve(self, stream: int, method: str, call: Coroutine[Any, Any, bytes], timeout: int) -> None:
        code, message, answer = status.OK, "", b""
        try:
            async with asyncio.timeout(timeout / 1e9 if timeout > 0 else None) as limit:
                answer = await call
        except TimeoutError as error:
            late = DeadlineExceeded(f"{method}: no answer within {timeout / 1e9:g} s")
            code, message = status.of(late if limit.expired() else error, method)
        except asyncio.CancelledError:
            return  # the client is gone
        except Exception as error:
            code, message = status.of(error, method)
        finally:
            del self._calls[stream]
        self._answer(stream, (code, message), answer)
        if self._pending.pop(stream, None) is not None:
            self._note()

    def _note(self, keep: bool = False) -> None:
        """Bring the keeper's note up to date; with ``keep``, have the connection kept if it is not yet."""
        if self._keeper is None or self._transport is None:
            return
        if self._key:
            self._keeper.note(self._key, b"".join(self._pending.values()))
        elif keep:
            sock: socket.socket = self._transport.get_extra_info("socket")
            self._key = self._keeper.keep(sock.fileno(), b"".join(self._pending.values()))
            self._peek()

    def _answer(self, stream: int, outcome: tuple[int, str], payload: bytes) -> None:
        if self._transport is None:
            return
        code, message = outcome
        response = pb.Response(payload=payload)
        if code != status.OK:
            response.status.code = code
            response.status.message = message
        self._transport.write(frames.encode(stream, frames.RESPONSE, response.SerializeToString()))


def _peer(transport: asyncio.BaseTransport) -> str:
    """The peer's process, user and group (SO_PEERCRED, unix(7))."""
    sock: socket.socket = transport.get_extra_info("socket")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = (int.from_bytes(raw[i : i + 4], "little", signed=True) for i in (0, 4, 8))
    return f"pid={pid} uid={uid} gid={gid}"
