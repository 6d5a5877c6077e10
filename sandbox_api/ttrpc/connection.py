"""One client's connection to a ttrpc server: what comes in, what is under way, what goes out.

On a bare socket: asyncio's transports cost kilobytes, and would need a second descriptor to peek through.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from google.protobuf.message import DecodeError

from .. import calls, status
from ..errors import (
    InvalidArgument,
    OutOfMemory,
    ResourceExhausted,
    SandboxerError,
    TooManyCalls,
    Unavailable,
    Unimplemented,
)
from ..proto import ttrpc_pb2 as pb
from . import frames
from .call import Call
from .keeper import MIDWAY, Keeper

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1024
"""Calls beside Waits that a connection may have under way; more are refused, not queued."""

MAX_WAITS = 65_536
"""Waits that a connection may have pending: they cost memory alone, and a node's client may share one for all."""

MAX_UNREAD = 1 << 20
"""Bytes of answers that a client has not read yet; with more, no request of its is read."""

_MAX_HELD = 64 << 10
"""Bytes of a frame whose beginning stays in the socket until the rest is there; a larger one may not fit into it."""
_MAX_LOOKS = 12
"""Looks at the beginning of a frame before it is read as it is: about a second, with longer pauses between each."""

_NAMESPACE_KEY = "containerd-namespace-ttrpc"


@dataclass(frozen=True, slots=True)
class Shared:
    """State that all connections of a server share."""

    methods: calls.Methods
    keeper: Keeper | None
    loop: asyncio.AbstractEventLoop
    buffer: memoryview
    """The buffer that connections read into, one at a time."""
    admit_wait: Callable[[], None]
    """Raises ``ResourceExhausted`` where one more connection may not wait."""
    closed: Callable[[Connection], None]


class Connection:
    """One client. A node has one for each pending Wait, so it stays small."""

    __slots__ = (
        "_calls", "_closing", "_decoder", "_key", "_looks", "_midway", "_out", "_resumed", "_shared", "_sock", "_waits"
    )  # fmt: skip

    def __init__(self, shared: Shared, sock: socket.socket, key: int = 0) -> None:
        """Serve what comes from a connected socket, which is the connection's from now on; ``key`` if it is kept."""
        sock.setblocking(False)
        self._shared = shared
        self._sock: socket.socket | None = sock
        self._key = key
        self._closing = False
        self._decoder = frames.Decoder()
        self._looks = 0  # at the beginning of a frame in the socket
        self._midway = 0  # place in the journal of the note that no other server could continue here
        self._calls: dict[int, Call] = {}
        self._waits = 0  # of these calls
        self._resumed: set[int] | None = None  # streams whose requests may still be in the socket
        self._out: bytearray | None = None  # what the socket has not taken yet; while it is there, a writer is, too
        shared.loop.add_reader(sock.fileno(), self._readable)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("task client connected: %s", _peer(sock))

    def resume(self, place: int, stream: int, request: bytes) -> None:
        """Continue a call that an earlier server had journaled. Waits begin again; of others the outcome is unknown."""
        if self._resumed is None:
            self._resumed = set()
        self._resumed.add(stream)
        try:
            read = pb.Request.FromString(request)
        except DecodeError:  # the journal is damaged
            read = pb.Request()
        method = self._shared.methods.get((read.service, read.method))
        try:
            if method is None or method.kind is not calls.Kind.WAIT:
                raise Unavailable(f"{read.method}: the sandboxer was restarted in the middle of it")
            self._begin(stream, request, place)
        except SandboxerError as error:
            self._answer(stream, status.of(error, read.method))
            self._end(place)

    def hang_up(self, keeping: bool = False) -> None:
        """Close this connection once every answer has been sent; ``keeping``: leave a kept one to the next server."""
        if self._sock is None:
            return
        if keeping:
            self._key = 0
        self._shared.loop.remove_reader(self._sock.fileno())
        if self._out is None:
            self._lost()
        else:
            self._closing = True

    # In

    def _readable(self) -> None:
        """Read. A request is taken from the socket only once it is whole, and journaled on a kept connection.

        One that was read by a process that then died would otherwise never be answered; after a part of one, the next
        process would take the rest for another. So it is journaled that a part is taken, and no byte is taken behind
        it. A connection may be kept from the next request on.
        """
        assert self._sock is not None
        buffer = self._shared.buffer
        try:
            if self._shared.keeper is None:
                if size := self._sock.recv_into(buffer):
                    self._received(bytes(buffer[:size]))
                    return
            elif missing := self._decoder.missing:
                if size := self._sock.recv_into(buffer, min(missing, len(buffer))):
                    self._received(bytes(buffer[:size]))
                    self._note_midway()
                    return
            elif size := self._sock.recv_into(buffer, 0, socket.MSG_PEEK):
                data = bytes(buffer[:size])
                whole = frames.whole(data)
                if whole:
                    self._looks = 0
                    self._received(data[:whole])
                elif self._await_rest(data):
                    return
                else:  # a frame in pieces cannot be journaled yet
                    self._note_midway(True)
                    self._received(data)
                if self._sock is not None:
                    self._sock.recv_into(buffer, whole or size)
                return
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        self.hang_up()

    def _await_rest(self, begun: bytes) -> bool:
        """Whether to leave the beginning of a frame in the socket and look again; at once at first, for most often the
        rest is on its way (Go's clients write more than 4 KiB in two pieces)."""
        most = min(_MAX_HELD, len(self._shared.buffer))  # more is never seen whole
        if frames.size(begun) > most or self._looks >= _MAX_LOOKS:
            self._looks = 0
            return False
        self._looks += 1
        if self._looks > 2:
            assert self._sock is not None
            self._shared.loop.remove_reader(self._sock.fileno())
            self._shared.loop.call_later(2**self._looks / 8000, self._read_on)
        return True

    def _read_on(self) -> None:
        if self._sock is not None and not self._closing:
            self._shared.loop.add_reader(self._sock.fileno(), self._readable)

    def _received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except frames.BrokenFrame as error:
            log.warning("task client hung up on: %s", error)
            self._answer(error.stream, status.of(ResourceExhausted(str(error)), "ttrpc"))
            if self._sock is not None:
                with suppress(OSError):  # what is closed unread is a reset, and the answer lost (unix(7))
                    self._sock.recv_into(self._shared.buffer)
            self.hang_up()

    def _take(self, frame: frames.Frame) -> None:
        if frame.type != frames.REQUEST:
            return  # a stream's data: nothing here streams
        if self._resumed and frame.stream in self._resumed:
            self._resumed.discard(frame.stream)  # an earlier server journaled it, and died before it took it
            return
        try:
            self._begin(frame.stream, frame.message)
        except SandboxerError as error:
            self._answer(frame.stream, status.of(error, "ttrpc"))

    def _begin(self, stream: int, message: bytes, place: int = 0) -> None:
        try:
            request = pb.Request.FromString(message)
        except DecodeError as error:
            raise InvalidArgument(f"not a ttrpc request: {error}") from None
        method = self._shared.methods.get((request.service, request.method))
        if method is None:
            raise Unimplemented(f"unimplemented: {request.service[:200]}/{request.method[:200]}")
        try:
            self._admit(method, request, stream, message, place)
        except SandboxerError as error:
            method.count(error)
            raise

    def _admit(self, method: calls.Method, request: pb.Request, stream: int, message: bytes, place: int) -> None:
        if self._sock is None and method.kind is not calls.Kind.CHANGE:
            self._end(place)  # its client went as an earlier request was answered
            return
        if stream in self._calls or not stream & 1:
            raise InvalidArgument(f"stream {stream} is in use, or not a client's (they are odd)")
        waits = method.kind is calls.Kind.WAIT
        if waits and self._waits >= MAX_WAITS:
            raise TooManyCalls(f"{MAX_WAITS} Waits are pending on this connection: open another")
        if not waits and len(self._calls) - self._waits >= MAX_IN_FLIGHT:
            raise TooManyCalls(f"{MAX_IN_FLIGHT} calls are under way on this connection: wait for answers")
        if waits and not self._key:
            try:
                self._shared.admit_wait()
            except ResourceExhausted:
                self._shared.loop.call_soon(self._make_room)
                raise
        if not place:
            place = self._journal(stream, method.name, message if waits else b"")
        namespace = next((pair.value for pair in request.metadata if pair.key == _NAMESPACE_KEY), "")
        try:
            task = calls.begin(method, namespace, request.payload)
        except SandboxerError:
            self._end(place)
            raise
        call = self._calls[stream] = Call(self, stream, method, task, place)
        self._waits += waits
        if request.timeout_nano > 0:
            call.limit(request.timeout_nano / 1e9)

    def _make_room(self) -> None:
        """Its Wait was refused for want of descriptors: it has no use for this one."""
        if not self._calls:
            self.hang_up()

    # Out

    def done(self, call: Call, outcome: tuple[int, str], payload: bytes = b"") -> None:
        """A call has come to an answer."""
        if self._calls.get(call.stream) is not call:  # answered already; the stream may be another call's since
            return
        del self._calls[call.stream]
        self._waits -= call.method.kind is calls.Kind.WAIT
        call.method.answered[outcome[0]] += 1
        self._answer(call.stream, outcome, payload)
        self._end(call.place)

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
            if len(self._out) > MAX_UNREAD:
                self._shared.loop.remove_reader(self._sock.fileno())
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
            self._shared.loop.add_writer(self._sock.fileno(), self._writable)
            self._note_midway()

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
            self._note_midway()
            self._shared.loop.remove_writer(self._sock.fileno())
            if self._closing:
                self._lost()
            else:
                self._shared.loop.add_reader(self._sock.fileno(), self._readable)

    def _lost(self) -> None:
        """Close. Reads are cancelled; changes finish."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._shared.loop.remove_reader(sock.fileno())
        self._shared.loop.remove_writer(sock.fileno())
        self._out = None
        under_way, self._calls = self._calls, {}
        for call in under_way.values():
            call.abandon()
        if self._key and self._shared.keeper is not None:
            for call in under_way.values():
                self._end(call.place)
            self._end(self._midway)
            self._shared.keeper.drop(self._key)
        sock.close()
        self._shared.closed(self)

    # The journal

    def _journal(self, stream: int, method: str, wait: bytes) -> int:
        """Journal a call, with its request if it is a Wait; the place, or 0. The first Wait has the connection kept.

        Raises ``ResourceExhausted``.
        """
        keeper = self._shared.keeper
        if keeper is None or self._sock is None or not (self._key or wait):
            return 0
        first = not self._key
        try:
            if first:
                self._key = keeper.reserve(self._sock.fileno())
                self._note_midway()
                for earlier in self._calls.values():
                    earlier.place = keeper.begin(self._key, earlier.stream, _named(earlier.method.name))
            return keeper.begin(self._key, stream, wait or _named(method))
        except OSError as error:
            raise OutOfMemory(f"{method}: no memory to note it: {error.strerror}") from None
        finally:
            if first:
                keeper.keep(self._key)

    def _note_midway(self, taking: bool = False) -> None:
        """Note whether a kept connection is in the middle of a frame, where the next server cannot go on: one that is
        read, or is being taken, in pieces, or answers that the socket has no room for."""
        if self._sock is None:
            return
        midway = taking or self._decoder.partial or self._out is not None
        if not midway:
            self._end(self._midway)
            self._midway = 0
        elif self._key and not self._midway and self._shared.keeper is not None:
            with suppress(OSError):  # without memory for it, a death now is one that the next server does not see
                self._midway = self._shared.keeper.begin(self._key, MIDWAY, _named("a frame in pieces"))

    def _end(self, place: int) -> None:
        if place and self._shared.keeper is not None:
            self._shared.keeper.end(place)


@cache
def _named(method: str) -> bytes:
    """A request that has a method's name and nothing else."""
    return pb.Request(method=method).SerializeToString()


def _peer(sock: socket.socket) -> str:
    """The peer's process, user and group (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = (int.from_bytes(raw[i : i + 4], "little", signed=True) for i in (0, 4, 8))
    return f"pid={pid} uid={uid} gid={gid}"
