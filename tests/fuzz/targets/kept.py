"""A task client's connection that outlives supervisors: they end or die at any moment, a real relay keeps what waits.

Three bytes are a step (``_Life.step``): something that the client sends, something that happens, or the end of a
supervisor, after which the next one takes over. No request is executed twice, none is answered that was not sent, and
as long as the connection was kept, each has its answer. At last the relay holds nothing, and the journal is empty.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

from sandbox_api import calls
from sandbox_api.proto import ttrpc_pb2 as pb
from sandbox_api.ttrpc import frames
from sandbox_api.ttrpc.connection import Connection, Shared
from supervisor.ipc.journal import Journal
from supervisor.ipc.relay import RelayClient
from workers.boot import ControlListener
from workers.relay import Relay

from .helper_loops import close_helper

MOST = 192
STEPS = ("wait", "change", "read", "unknown", "event", "settle", "kill", "kill in a call", "close", "hold", "broken")
"""A new one comes last: inputs in the tree name them by number."""
_LONGEST = 3.0
"""Seconds until all that is under way has happened: beginnings of frames are looked at for one."""

_loop = asyncio.new_event_loop()
_faults: list[dict[str, Any]] = []


class _Killed(BaseException):
    """The supervisor's process is no more."""


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), _Killed):
        _faults.append(context)


_loop.set_exception_handler(_note)


def run(data: bytes) -> None:
    _loop.run_until_complete(_live(data))
    assert not _faults, _faults.pop()


class _Keeper:
    """A relay client whose process is killed within a call of the server's, when its time has come."""

    def __init__(self, relay: RelayClient) -> None:
        self._relay = relay
        self.left = 1 << 30
        """Calls that it lives on for."""
        self.kept = False

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise _Killed
            self.kept = self.kept or name == "keep"
            return getattr(self._relay, name)(*args)

        return call


class _Life:
    """A client, its connection, and one supervisor after the other."""

    def __init__(self, relay: Relay, path: str) -> None:
        self._relay = relay
        self._path = path
        self.client, theirs = socket.socketpair()
        self.client.setblocking(False)
        self._sent: dict[int, str] = {}
        self._answers: Counter[int] = Counter()
        self._executed: Counter[bytes] = Counter()
        self._happened: set[bytes] = set()
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        self._decoder = frames.Decoder()
        self._held: bytearray | None = None
        self._killed_within = 0
        self._broken = False
        self.gone = False
        """The connection has been closed by its server."""
        self._methods: calls.Methods = {
            ("s", "read"): calls.Method("read", self._execute, calls.Kind.READ),
            ("s", "change"): calls.Method("change", self._execute, calls.Kind.CHANGE),
            ("s", "wait"): calls.Method("wait", self._wait, calls.Kind.WAIT),
        }
        self._theirs: socket.socket | None = theirs
        """The server's end, until a server has it."""
        self._connection: Connection | None = None

    async def begin(self) -> None:
        """A supervisor begins, takes what is kept, and what is not kept is a new client."""
        self.client_of_relay = RelayClient(self._path)
        self._keeper = _Keeper(self.client_of_relay)
        kept = await self.client_of_relay.take()
        self.closed: list[Connection] = []
        shared = Shared(
            self._methods, self._keeper, _loop, memoryview(bytearray(4096)), lambda: None, self.closed.append
        )
        self._connection = None
        if self._theirs is not None:
            assert not kept
            self._socket, self._theirs = self._theirs, None
            self._connection = Connection(shared, self._socket)
        for each in kept:
            assert self._connection is None
            self._keeper.kept = True
            self._socket = socket.socket(fileno=each.fd)
            self._connection = Connection(shared, self._socket, each.key)
            for call in each.pending:
                self._connection.resume(call.place, call.stream, call.request)

    async def step(self, kind: str, a: int, b: int) -> None:
        match kind:
            case "wait" | "change" | "read" | "unknown":
                stream = len(self._sent) * 2 + 1
                self._sent[stream] = kind
                payload = b"%d" % stream + bytes(b * 16)
                request = pb.Request(service="s", method=kind, payload=payload)
                await self._send(frames.encode(stream, frames.REQUEST, request.SerializeToString()), a)
            case "broken":
                self._broken = True
                await self._send(bytes([a, b]) * 8, 0)
            case "event" if self._waiting:
                self._happen(sorted(self._waiting)[a % len(self._waiting)])
            case "settle":
                await self._settle(a % 8)
            case "kill":
                await self._replace()
            case "kill in a call":
                self._keeper.left = a % 8
            case "close":
                if self._connection is not None:
                    self._connection.hang_up(keeping=True)
                await self._replace()
            case "hold" if self._held is None:
                self._held = bytearray()

    async def _send(self, data: bytes, cut: int) -> None:
        """In pieces, with turns between; or with the next one, where it is held."""
        if self._held is not None:
            self._held += data
            if len(self._held) < 300:
                return
            data, self._held = bytes(self._held), None
        at = len(data) * cut // 256 if cut & 1 else 0
        for piece in (data[:at], data[at:]):
            try:
                if piece:
                    self.client.send(piece)
            except (BrokenPipeError, ConnectionResetError):
                self.gone = True
            await self._settle(cut % 4)

    async def _settle(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self.read()
            if self._keeper.left < 0:
                self._killed_within += 1
                await self._replace()

    def read(self) -> None:
        """Take the answers that are there."""
        try:
            while data := self.client.recv(65536):
                for frame in self._decoder.feed(data):
                    assert frame.type == frames.RESPONSE
                    pb.Response.FromString(frame.message)
                    self._answers[frame.stream] += 1
            self.gone = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.gone = True

    async def _replace(self) -> None:
        """Kill the supervisor, and begin the next one."""
        kept = self._keeper.kept and not self.closed and not (self._connection and self._connection._midway)
        self.kill()
        await self.begin()
        if self._connection is None:
            assert not kept or self._killed_within, "a connection that was kept is lost"
            self.gone = True

    def kill(self) -> None:
        """Nothing of it is executed any more, and the kernel closes what it had."""
        self._keeper.left = -1
        connection, self._connection = self._connection, None
        if connection is not None and connection._sock is not None:
            self._broken = self._broken or connection._decoder.partial  # what was read of a frame is lost
            _loop.remove_reader(connection._sock.fileno())
            _loop.remove_writer(connection._sock.fileno())
            under_way, connection._calls = connection._calls, {}
            for call in under_way.values():
                call._task.cancel()
            connection._sock = None
        self._socket.close()  # it may have been killed within what it does before that
        for waiter in self._waiting.values():
            for future in waiter:
                future.cancel()
        self._waiting.clear()
        self.client_of_relay.close()

    async def end(self) -> None:
        """The client goes, after all that waits has happened; then everything is to be as it was."""
        self._keeper.left = 1 << 30
        held, self._held = self._held, None
        await self._send(bytes(held or b""), 0)
        await self._until(lambda: self._answers.keys() >= self._sent.keys())
        self._check()
        self.client.shutdown(socket.SHUT_WR)
        await self._until(lambda: self.gone and not self._relay._kept)
        assert self.gone
        assert not self._relay._kept
        journal = self.client_of_relay._journal
        assert journal is not None
        assert not Journal(journal.fd).pending()
        assert all(method.under_way == 0 for method in self._methods.values())

    async def _until(self, done: Callable[[], bool]) -> None:
        """Let all happen, until then or until the connection is closed."""
        deadline = _loop.time() + _LONGEST
        while not done() and _loop.time() < deadline:
            for name in list(self._waiting):
                self._happen(name)
            await self._settle(20)
            if self.gone and not self._relay._kept:
                break
            await asyncio.sleep(0.0005)

    def _check(self) -> None:
        assert self._answers.keys() <= self._sent.keys() or self._broken
        assert all(count == 1 for name, count in self._executed.items() if self._sent[int(name)] == "change")
        if self._broken:
            return
        if not self._killed_within:  # between an answer and its end in the journal, or in the middle of some frames
            assert all(count == 1 for count in self._answers.values()), self._answers
        if not self.gone:
            assert self._answers.keys() == self._sent.keys(), self._sent.keys() - self._answers.keys()

    async def _execute(self, namespace: str, payload: bytes) -> bytes:
        self._executed[payload.rstrip(b"\0")] += 1
        await asyncio.sleep(0)
        return payload

    async def _wait(self, namespace: str, payload: bytes) -> bytes:
        name = payload.rstrip(b"\0")
        if name not in self._happened:
            self._waiting.setdefault(name, []).append(_loop.create_future())
            await self._waiting[name][-1]
        return payload

    def _happen(self, name: bytes) -> None:
        self._happened.add(name)
        for future in self._waiting.pop(name):
            if not future.done():
                future.set_result(None)


async def _live(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-kept-") as folder:
        path = f"{folder}/relay-now.sock"
        listener = ControlListener(path)
        relay = Relay(listener)
        _loop.add_reader(relay._poll.fileno(), _turn, relay)
        life = _Life(relay, path)
        try:
            await life.begin()
            for at in range(0, len(data) - 2, 3):
                kind, a, b = data[at : at + 3]
                await life.step(STEPS[kind % len(STEPS)], a, b)
            await life.end()
        finally:
            life.kill()
            life.client.close()
            _loop.remove_reader(relay._poll.fileno())
            close_helper(relay)
            listener._listener.close()
            os.close(listener._reserve)


def _turn(relay: Relay) -> None:
    """What the relay's own loop does (``Helper.run``)."""
    for fd, event in relay._poll.poll(0):
        if fd == relay._listener.fileno():
            relay._accept()
        elif fd in relay._readers:
            relay._receive(fd)
        else:
            relay._serve(fd, event & ~select.EPOLLRDHUP)
