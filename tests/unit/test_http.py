"""The small HTTP server: one answer a connection, and no client that is slow, rude or gone harms another."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from supervisor.host import http, sockets


class Endless:
    """Parts until the client goes; ``ended`` is set then."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        try:
            yield b"first\n"
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def serve(path: Path, endless: Endless | None = None) -> http.HttpServer:
    async def answer(where: str, query: dict[str, str]) -> http.Answer:
        if where == "/endless" and endless is not None:
            return http.Answer(endless.parts())
        if where == "/broken":
            raise RuntimeError("unforeseen")
        return http.Answer(f"{where} {sorted(query.items())}".encode())

    server = http.HttpServer(answer)
    await server.start(sockets.listen(path))
    return server


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    whole = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return whole


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /a/b?c=d%20e&f HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"POST /a HTTP/1.1\r\n\r\n", b"405"),
        (b"hello\r\n\r\n", b"400"),
        (b"\xff\xfe\0\r\n\r\n", b"400"),
        (b"GET /a HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
        (b"GET //[ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /a?" + b"b&" * 5000 + b" HTTP/1.1\r\n\r\n", b"400"),
    ],
)
def test_each_request_is_answered(tmp_path: Path, request_bytes: bytes, status: bytes) -> None:
    async def scenario() -> None:
        server = await serve(tmp_path / "s")
        answer = await ask(tmp_path / "s", request_bytes)
        assert answer.split(b" ")[1] == status
        if status == b"200":
            assert answer.endswith(b"\r\n\r\n/a/b [('c', 'd e'), ('f', '')]")
        assert b"200" in await ask(tmp_path / "s", b"GET / HTTP/1.0\r\n\r\n")
        await server.close()

    asyncio.run(scenario())


def test_a_client_that_goes_ends_what_it_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        endless = Endless()
        server = await serve(tmp_path / "s", endless)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
        assert (await reader.readuntil(b"first\n")).endswith(b"\r\n\r\nfirst\n")
        writer.close()
        await asyncio.wait_for(endless.ended.wait(), 30)
        await server.close()

    asyncio.run(scenario())


def test_closing_ends_what_is_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        endless = Endless()
        server = await serve(tmp_path / "s", endless)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"first\n")
        await asyncio.wait_for(server.close(), 30)
        assert endless.ended.is_set()
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()

    asyncio.run(scenario())


def test_too_many_clients_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(http, "MAX_CLIENTS", 1)
        endless = Endless()
        server = await serve(tmp_path / "s", endless)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"first\n")
        assert b" 503 " in await ask(tmp_path / "s", b"GET / HTTP/1.1\r\n\r\n")
        writer.close()
        await asyncio.wait_for(endless.ended.wait(), 30)
        await server.close()

    asyncio.run(scenario())


def test_http_over_tcp() -> None:
    async def scenario() -> None:
        async def answer(where: str, query: dict[str, str]) -> http.Answer:
            return http.Answer(b"fine")

        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server = http.HttpServer(answer)
        port = listener.getsockname()[1]
        await server.start(listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"fine")
        writer.close()
        await server.close()

    asyncio.run(scenario())


def test_connections_beyond_the_bound_are_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "sock"
        server = await serve(path)
        idle = [await asyncio.open_unix_connection(str(path)) for _ in range(http.MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_unix_connection(str(path))
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, each in [*idle, (reader, writer)]:
            each.close()
        await server.close()

    asyncio.run(scenario())
