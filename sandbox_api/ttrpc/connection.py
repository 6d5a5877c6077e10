"""One client's connection to a ttrpc server: what comes in, what is under way, what goes out.

On a bare socket: asyncio's transports cost kilobytes, and would need a second descriptor to peek through.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from .. import calls, status
from ..errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, SandboxerError, Unavailable, Unimplemented
from ..proto import ttrpc_pb2 as pb
from . import frames

if TYPE_CHECKING:
    from .server import Keeper, Server

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1024
"""Calls beside Waits that a connection may have under way; more are refused, not queued."""

MAX_WAITS = 65_536
"""Waits that a connection may have pending: they cost memory alone, and a node's client may share one for all."""

_NAMESPACE_KEY = "containerd-namespace-ttrpc"


class Connection:
    """One client. A node has one for each pending Wait, so it stays small."""

    __slots__ = ("_calls", "_decoder", "_key", "_noted", "_out", "_server", "_sock", "_waits")

    def __init__(self, server: Server, sock: socket.socket) -> None:
        """Serve what comes from a connected socket, which is the connection's from now on."""
        sock.setblocking(False)
        self._server = server
        self._sock: socket.socket | None = sock
        self._key = 0
        self._decoder = frames.Decoder()
        self._calls: dict[int, _Call] = {}
        self._waits = 0  # of these calls
        self._noted: set[int] | None = None  # of the note we began with: their requests may still be in the socket
        self._out: bytearray | None = None  # what the socket has not taken yet; while it is there, a writer is, too
        server.loop.add_reader(sock.fileno(), self._readable)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("task client connected: %s", _peer(sock))

    def resume(self, key: int, note: bytes, under_way: Sequence[tuple[int, str]]) -> None:
        """Begin again what an earlier server had pending: Waits, that is; of others nobody knows how far they came."""
        self._key = key
        self._noted = set()
        lost = list(under_way)
        for frame in frames.Decoder().feed(note):
            request = pb.Request.FromString(frame.message)
            method = self._server.methods.get((request.service, request.method))
            if method is not None and method.kind is calls.Kind.WAIT:
                self._take(frame)
                self._noted.add(frame.stream)
            else:
                lost.append((frame.stream, request.method))
                self._forget(frame.stream)
        for stream, name in lost:
            error = Unavailable(f"{name}: the sandboxer was started anew in the middle of it")
            self._answer(stream, status.of(error, name))
            self._noted.add(stream)

    def hang_up(self, keeping: bool = False) -> None:
        """End this connection once what was answered has gone out; with ``keeping``, only our part in a kept one."""
        if self._sock is None:
            return
        if keeping:
            self._key = 0
        self._server.loop.remove_reader(self._sock.fileno())
        if self._out is None:
            self._lost()
        else:
            self._server.closing.add(self)

    # In

    def _readable(self) -> None:
        """A request of a kept connection is taken from the socket only once it is noted.

        One that was read by a process that then died would else be answered by nobody.
        """
        assert self._sock is not None
        buffer = self._server.buffer
        try:
            if not self._key:
                if size := self._sock.recv_into(buffer):
                    self._received(bytes(buffer[:size]))
                    return
            elif size := self._sock.recv_into(buffer, 0, socket.MSG_PEEK):
                data = bytes(buffer[:size])
                whole = 0 if self._decoder.partial else frames.whole(data)
                if whole:
                    self._received(data[:whole])
                if self._sock is not None:
                    rest = self._sock.recv_into(buffer, whole or size)
                    if not whole:  # of a frame that does not come in one piece there can be no note yet
                        self._received(bytes(buffer[:rest]))
                return
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        self.hang_up()

    def _received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except frames.BrokenFrame as error:
            log.warning("task client hung up on: %s", error)
            self._answer(error.stream, status.of(ResourceExhausted(str(error)), "ttrpc"))
            self.hang_up()

    def _take(self, frame: frames.Frame) -> None:
        if frame.type != frames.REQUEST:
            return  # a stream's data: nothing here streams
        if self._noted and frame.stream in self._noted:
            self._noted.discard(frame.stream)  # the one before us noted it, and died before it took it
            return
        try:
            self._begin(frame.stream, frame.message)
        except SandboxerError as error:
            self._answer(frame.stream, status.of(error, "ttrpc"))

    def _begin(self, stream: int, message: bytes) -> None:
        try:
            request = pb.Request.FromString(message)
        except DecodeError as error:
            raise InvalidArgument(f"not a ttrpc request: {error}") from None
        method = self._server.methods.get((request.service, request.method))
        if method is None:
            raise Unimplemented(f"nobody serves {request.service[:200]}/{request.method[:200]}")
        if stream in self._calls or not stream & 1:
            raise InvalidArgument(f"stream {stream} is in use, or not a client's (they are odd)")
        waits = method.kind is calls.Kind.WAIT
        if waits and self._waits >= MAX_WAITS:
            raise ResourceExhausted(f"{MAX_WAITS} Waits are pending on this connection: open another")
        if not waits and len(self._calls) - self._waits >= MAX_IN_FLIGHT:
            raise ResourceExhausted(f"{MAX_IN_FLIGHT} calls are under way on this connection: wait for answers")
        if waits and not self._key:
            try:
                self._server.let_wait()
            except ResourceExhausted:
                self._server.loop.call_soon(self._make_room)
                raise
        namespace = next((pair.value for pair in request.metadata if pair.key == _NAMESPACE_KEY), "")
        task = calls.begin(method, namespace or calls.DEFAULT_NAMESPACE, request.payload)
        call = self._calls[stream] = _Call(self, stream, method, task)
        self._waits += waits
        if request.timeout_nano > 0:
            call.limit(request.timeout_nano / 1e9)
        call.message = message if waits else b""
        self._note(call, call.message)

    def _make_room(self) -> None:
        """Its Wait was refused for want of descriptors: it has no use for this one."""
        if not self._calls:
            self.hang_up()

    # Out

    def done(self, call: _Call, outcome: tuple[int, str], payload: bytes = b"") -> None:
        """A call has come to an answer."""
        if self._calls.pop(call.stream, None) is None:
            return
        self._waits -= call.method.kind is calls.Kind.WAIT
        self._answer(call.stream, outcome, payload)
        if call.place and self._server.keeper is not None:
            self._server.keeper.end_call(call.place)
        elif self._key:
            self._forget(call.stream)

    def _answer(self, stream: int, outcome: tuple[int, str], payload: bytes = b"") -> None:
        code, message = outcome
        response = pb.Response(payload=payload)
        if code != status.OK:
            response.status.code = code
            response.status.message = message
        self._send(frames.encode(stream, frames.RESPONSE, response.SerializeToString()))

    def _send(self, data: bytes) -> None:
        if self._sock is None:
            return
        if self._out is not None:
            self._out += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost()
            return
        if sent < len(data):
            self._out = bytearray(data[sent:])
            self._server.loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        assert self._sock is not None
        assert self._out is not None
        try:
            del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        if not self._out:
            self._out = None
            self._server.loop.remove_writer(self._sock.fileno())
            if self in self._server.closing:
                self._lost()

    def _lost(self) -> None:
        """The connection is gone, or to be closed now. What waits ends with it; what changes something goes on."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._server.loop.remove_reader(sock.fileno())
        self._server.loop.remove_writer(sock.fileno())
        sock.close()
        if self._key and self._server.keeper is not None:
            self._server.keeper.drop(self._key)
        self._out = None
        under_way, self._calls = self._calls, {}
        for call in under_way.values():
            call.abandon()
        self._server.lost(self)

    # Notes for who comes after us

    def keep_again(self) -> None:
        """Have this connection kept anew, with all that is pending on it, if it was kept."""
        keeper = self._server.keeper
        if self._key and keeper is not None and self._sock is not None:
            self._key = keeper.keep(self._sock.fileno())
            for call in self._calls.values():
                self._note(call, call.message)

    def _note(self, call: _Call, message: bytes) -> None:
        """Have a call noted, by its ``message`` if it waits; with the first that does, the connection is kept."""
        keeper = self._server.keeper
        if keeper is None or self._sock is None or not (self._key or message):
            return
        if not self._key:
            self._key = keeper.keep(self._sock.fileno())
            for earlier in self._calls.values():
                if earlier is not call:
                    self._note_short(keeper, earlier)
        if message:
            keeper.note(self._key, call.stream, frames.encode(call.stream, frames.REQUEST, message))
        else:
            self._note_short(keeper, call)

    def _note_short(self, keeper: Keeper, call: _Call) -> None:
        call.place = keeper.begin(self._key, call.stream, call.method.name)
        if not call.place:
            message = pb.Request(method=call.method.name).SerializeToString()
            keeper.note(self._key, call.stream, frames.encode(call.stream, frames.REQUEST, message))

    def _forget(self, stream: int) -> None:
        if self._key and self._server.keeper is not None:
            self._server.keeper.note(self._key, stream, b"")


class _Call:
    """A call under way."""

    __slots__ = ("_connection", "_task", "_timer", "message", "method", "place", "stream")

    def __init__(self, connection: Connection, stream: int, method: calls.Method, task: asyncio.Task[bytes]) -> None:
        self._connection = connection
        self.method = method
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self.stream = stream
        self.message = b""
        """Of a call that waits: the request, to be noted."""
        self.place = 0
        """On the keeper's board."""
        task.add_done_callback(self._done)

    def limit(self, seconds: float) -> None:
        """Answer within this time, whatever comes."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late, seconds)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self.method.kind is not calls.Kind.CHANGE:
            self._task.cancel()

    def _late(self, seconds: float) -> None:
        late = DeadlineExceeded(f"{self.method.name}: no answer within {seconds:g} s")
        self._connection.done(self, status.of(late, self.method.name))
        self.abandon()

    def _done(self, task: asyncio.Task[bytes]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._connection.done(self, (status.OK, ""), task.result())
        elif isinstance(error, Exception):
            self._connection.done(self, status.of(error, self.method.name))


def _peer(sock: socket.socket) -> str:
    """The peer's process, user and group (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = (int.from_bytes(raw[i : i + 4], "little", signed=True) for i in (0, 4, 8))
    return f"pid={pid} uid={uid} gid={gid}"
