"""Connections that outlive a server: what of a request is read, and what is left in the socket for the next one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from sandbox_api import calls
from sandbox_api.proto import ttrpc_pb2 as pb
from sandbox_api.ttrpc import connection as ttrpc
from sandbox_api.ttrpc import frames
from sandbox_api.ttrpc.connection import Connection, Shared


class Keeper:
    """Keeps any connection, and no journal."""

    def reserve(self, fd: int) -> int:
        return 1

    def keep(self, key: int) -> None:
        pass

    def drop(self, key: int) -> None:
        pass

    def begin(self, key: int, stream: int, request: bytes) -> int:
        return 64

    def end(self, place: int) -> None:
        pass


class Client:
    """A client with a pending Wait, whose connection is kept therefore."""

    def __init__(self) -> None:
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)
        self.connection = self.serve()

    def serve(self) -> Connection:
        """Have a server of its connection; the one before has hung up."""
        loop = asyncio.get_running_loop()
        methods = {
            ("s", "Echo"): calls.Method("Echo", self._echo, calls.Kind.CHANGE),
            ("s", "Wait"): calls.Method("Wait", self._wait, calls.Kind.WAIT),
        }
        buffer = memoryview(bytearray(1 << 18))
        shared = Shared(methods, Keeper(), loop, buffer, lambda: None, lambda connection: None)
        return Connection(shared, self._theirs.dup(), 1)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def answer(self) -> pb.Response:
        decoder = frames.Decoder()
        while True:
            for frame in decoder.feed(await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)):
                return pb.Response.FromString(frame.message)

    def close(self) -> None:
        self.connection.hang_up()
        self.sock.close()
        self._theirs.close()

    async def _echo(self, namespace: str, payload: bytes) -> bytes:
        return b"%d bytes" % len(payload)

    async def _wait(self, namespace: str, payload: bytes) -> bytes:
        await asyncio.get_running_loop().create_future()
        return b""


def request(size: int) -> tuple[bytes, bytes]:
    """A request in two pieces."""
    whole = frames.encode(
        3, frames.REQUEST, pb.Request(service="s", method="Echo", payload=bytes(size)).SerializeToString()
    )
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]


def run(test: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        client = Client()
        try:
            async with asyncio.timeout(20):
                await test(client)
        finally:
            client.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def read_in_pieces(client: Client, size: int) -> None:
    """Send a request of which the server reads the beginning before the rest is there, and see it answered."""
    first, second = request(size)
    await client.send(first)
    await until(lambda: client.connection._decoder.partial)
    await client.send(second)
    assert (await client.answer()).payload == b"%d bytes" % size


@pytest.mark.parametrize("looks", [1, 5])
def test_the_next_server_finds_a_request_whole_of_which_half_had_come(looks: int) -> None:
    async def test(client: Client) -> None:
        first, second = request(5000)
        await client.send(first)
        await until(lambda: client.connection._looks >= looks)
        client.connection.hang_up(keeping=True)
        client.connection = client.serve()
        await client.send(second)
        assert (await client.answer()).payload == b"5000 bytes"

    run(test)


def test_a_request_that_may_not_fit_into_the_socket_is_read_as_it_comes() -> None:
    async def test(client: Client) -> None:
        await read_in_pieces(client, 100_000)

    run(test)


def test_a_client_that_stops_within_a_request_is_looked_at_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttrpc, "_MAX_LOOKS", 4)

    async def test(client: Client) -> None:
        await read_in_pieces(client, 5000)
        await client.send(request(5000)[0])  # the next one is waited for again
        await until(lambda: client.connection._looks > 1)

    run(test)
