"""A ttrpc client on asyncio: unary calls, many in flight on its one connection."""

from __future__ import annotations

import asyncio
import itertools

from .. import status
from ..errors import Unavailable
from ..proto import ttrpc_pb2 as pb
from . import frames

_NAMESPACE_KEY = "containerd-namespace-ttrpc"


class Client(asyncio.Protocol):
    """A connection to a ttrpc server. Make one with ``Client.connect``."""

    def __init__(self) -> None:
        self._decoder = frames.Decoder()
        self._streams = itertools.count(1, 2)
        self._waiting: dict[int, asyncio.Future[pb.Response]] = {}
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, path: str) -> Client:
        """Connect to the Unix socket ``path``. Raises ``OSError``."""
        _, client = await asyncio.get_running_loop().create_unix_connection(cls, path)
        return client

    async def call(self, service: str, method: str, payload: bytes, namespace: str = "") -> bytes:
        """The answer to one call. Raises what the server's status stands for, or ``Unavailable``."""
        if self._transport is None:
            raise Unavailable(f"{service}/{method}: the connection is closed")
        request = pb.Request(service=service, method=method, payload=payload)
        if namespace:
            request.metadata.add(key=_NAMESPACE_KEY, value=namespace)
        stream = next(self._streams)
        answer = self._waiting[stream] = asyncio.get_running_loop().create_future()
        self._transport.write(frames.encode(stream, frames.REQUEST, request.SerializeToString()))
        try:
            response = await answer
        finally:
            self._waiting.pop(stream, None)
        if response.status.code != status.OK:
            raise status.error(response.status.code, response.status.message)
        return bytes(response.payload)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: every pending call fails."""
        self._transport = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable(f"the connection was lost: {exc or 'closed by the server'}"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        for frame in self._decoder.feed(data):
            answer = self._waiting.get(frame.stream)
            if answer is not None and not answer.done():
                answer.set_result(pb.Response.FromString(frame.message))
