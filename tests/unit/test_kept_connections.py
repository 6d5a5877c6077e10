"""Connections that outlive a server: what of a request is read, and what is left in the socket for the next one."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable

import pytest

from sandbox_api import calls
from sandbox_api.proto import ttrpc_pb2 as pb
from sandbox_api.ttrpc import connection as ttrpc
from sandbox_api.ttrpc import frames
from sandbox_api.ttrpc.connection import Connection, Shared
from sandbox_api.ttrpc.keeper import MIDWAY


class Keeper:
    """Keeps any connection, and knows the streams that are journaled."""

    def __init__(self) -> None:
        self.streams: dict[int, int] = {}  # by place
        self._places = itertools.count(64, 64)

    def reserve(self, fd: int) -> int:
        return 1

    def keep(self, key: int) -> None:
        pass

    def drop(self, key: int) -> None:
        pass

    def begin(self, key: int, stream: int, request: bytes) -> int:
        place = next(self._places)
        self.streams[place] = stream
        return place

    def end(self, place: int) -> None:
        del self.streams[place]


class Client:
    """A client with a pending Wait, whose connection is kept therefore."""

    def __init__(self) -> None:
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)
        self.keeper = Keeper()
        self.connection = self.serve()

    def serve(self) -> Connection:
        """Have a server of its connection; the one before has hung up."""
        loop = asyncio.get_running_loop()
        methods = {
            ("s", "Echo"): calls.Method("Echo", self._echo, calls.Kind.CHANGE),
            ("s", "Wait"): calls.Method("Wait", self._wait, calls.Kind.WAIT),
        }
        buffer = memoryview(bytearray(1 << 18))
        shared = Shared(methods, self.keeper, loop, buffer, lambda: None, lambda connection: None)
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


def request(size: int, stream: int = 3, method: str = "Echo") -> tuple[bytes, bytes]:
    """A request in two pieces."""
    message = pb.Request(service="s", method=method, payload=bytes(size)).SerializeToString()
    whole = frames.encode(stream, frames.REQUEST, message)
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]


def run(test: Callable[[Client], Awaitable[None]]) -> None:
    faults: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        client = Client()
        try:
            async with asyncio.timeout(20):
                await test(client)
        finally:
            client.close()

    asyncio.run(main())
    assert faults == []


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


def test_a_connection_is_noted_while_a_part_of_a_request_is_read_and_nothing_is_read_behind_it() -> None:
    async def test(client: Client) -> None:
        first, second = request(100_000)
        await client.send(first)
        await until(lambda: client.connection._decoder.partial)
        assert list(client.keeper.streams.values()) == [MIDWAY]
        beginning, end = request(5000, stream=5)
        await client.send(second + beginning)
        assert (await client.answer()).payload == b"100000 bytes"
        await until(lambda: client.connection._looks > 0)
        assert client.keeper.streams == {}
        client.connection.hang_up(keeping=True)
        client.connection = client.serve()
        await client.send(end)
        assert (await client.answer()).payload == b"5000 bytes"

    run(test)


@pytest.mark.parametrize("kept", [True, False])
def test_a_connection_is_noted_while_answers_find_no_room(kept: bool) -> None:
    """One that is kept only then, too."""

    async def test(client: Client) -> None:
        if not kept:
            client.connection._key = 0
        stream = 1
        while client.connection._out is None:
            stream += 2
            await client.send(b"".join(request(10, stream)))
            await asyncio.sleep(0)
        wait = pb.Request(service="s", method="Wait").SerializeToString()
        await client.send(frames.encode(1, frames.REQUEST, wait))
        await until(lambda: 1 in client.keeper.streams.values())
        assert MIDWAY in client.keeper.streams.values()
        decoder, answers = frames.Decoder(), 0
        while 2 * answers + 1 < stream:
            answers += len(list(decoder.feed(await asyncio.get_running_loop().sock_recv(client.sock, 1 << 16))))
        await until(lambda: list(client.keeper.streams.values()) == [1])

    run(test)


@pytest.mark.parametrize("whole", [True, False])
def test_a_client_that_goes_within_a_request_leaves_nothing_noted(whole: bool) -> None:
    async def test(client: Client) -> None:
        first, second = request(100_000, method="unknown")
        await client.send(first)
        await until(lambda: client.connection._decoder.partial)
        if whole:  # the answer finds nobody
            client.sock.send(second)
        client.sock.close()
        await until(lambda: client.connection._sock is None)
        await asyncio.sleep(0)
        assert client.keeper.streams == {}

    run(test)


def test_a_client_that_stops_within_a_request_is_looked_at_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttrpc, "_MAX_LOOKS", 4)

    async def test(client: Client) -> None:
        await read_in_pieces(client, 5000)
        await client.send(request(5000)[0])  # the next one is waited for again
        await until(lambda: client.connection._looks > 1)

    run(test)
