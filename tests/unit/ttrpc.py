"""A ttrpc server with methods that a test controls, and a client that may break the rules."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sandbox_api import calls
from sandbox_api.errors import NotFound
from sandbox_api.proto import ttrpc_pb2 as pb
from sandbox_api.ttrpc import frames
from sandbox_api.ttrpc.server import Server

SERVICE = "containerd.task.v3.Task"
SECONDS = 20


class Methods:
    """A service to call: ``Echo``, and two that go on until they are released, of which ``Wait`` changes nothing."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.gates: dict[bytes, asyncio.Event] = {}
        self.ended: asyncio.Queue[bytes] = asyncio.Queue()
        self.cancelled: asyncio.Queue[bytes] = asyncio.Queue()

    def table(self) -> calls.Methods:
        methods = (
            calls.Method("Echo", self.echo, calls.Kind.CHANGE),
            calls.Method("Start", self.held, calls.Kind.CHANGE),
            calls.Method("Wait", self.held, calls.Kind.WAIT),
            calls.Method("Fail", self.fail, calls.Kind.CHANGE),
            calls.Method("Slow", self.slow, calls.Kind.CHANGE),
        )
        return {(SERVICE, method.name): method for method in methods}

    async def echo(self, namespace: str, payload: bytes) -> bytes:
        return namespace.encode() + b"/" + payload

    async def held(self, namespace: str, payload: bytes) -> bytes:
        gate = self.gates.setdefault(payload, asyncio.Event())
        self.begun.release()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(payload)
            raise
        self.ended.put_nowait(payload)
        return payload

    async def fail(self, namespace: str, payload: bytes) -> bytes:
        raise NotFound(payload.decode(errors="surrogateescape"))

    async def slow(self, namespace: str, payload: bytes) -> bytes:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return b""

    async def have_begun(self, count: int) -> None:
        for _ in range(count):
            await self.begun.acquire()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Methods, str]]:
    """A server with these methods, and the path of its socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/task.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        methods = Methods()
        server = Server(methods.table())
        await server.start(listener)
        try:
            yield methods, path
        finally:
            await server.close()


class Raw:
    """A connection that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._decoder = frames.Decoder()
        self._frames: list[frames.Frame] = []

    @classmethod
    async def connect(cls, path: str) -> Raw:
        return cls(*await asyncio.open_unix_connection(path))

    def send(self, stream: int, method: str, payload: bytes = b"", timeout: int = 0, service: str = SERVICE) -> None:
        request = pb.Request(service=service, method=method, payload=payload, timeout_nano=timeout)
        self.writer.write(frames.encode(stream, frames.REQUEST, request.SerializeToString()))

    async def answer(self) -> tuple[int, pb.Response]:
        """The next answer: its stream and what it says."""
        while not self._frames:
            data = await self._reader.read(1 << 16)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)
        frame = self._frames.pop(0)
        assert frame.type == frames.RESPONSE
        return frame.stream, pb.Response.FromString(frame.message)

    async def until_hung_up(self) -> None:
        try:
            while await self._reader.read(1 << 16):
                pass
        except ConnectionResetError:
            pass


def run(test: Callable[[Methods, str], Awaitable[None]]) -> None:
    """Run a test with a server of its own."""

    async def main() -> None:
        async with asyncio.timeout(SECONDS), serving() as (methods, path):
            await test(methods, path)

    asyncio.run(main())
