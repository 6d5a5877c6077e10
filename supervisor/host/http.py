"""A small HTTP server for questions: GET alone, one answer a connection, which ends with it (RFC 9112, 6.3)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

log = logging.getLogger(__name__)

MAX_CLIENTS = 64
"""Questions under way at once; more are turned away."""
MAX_CONNECTIONS = 128
"""Connections at once; more are closed, since a client of --metrics could take all descriptors of the daemon's."""
REQUEST_SECONDS = 10.0
SEND_SECONDS = 30.0
"""Seconds that a client may leave its answer unread."""
_MAX_HEAD = 16 << 10
_MAX_FIELDS = 16  # of a query

JSON, LINES, TEXT = "application/json", "application/jsonl", "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: a whole body, or parts as they come."""

    body: bytes | AsyncIterator[bytes]
    content_type: str = JSON
    status: str = "200 OK"


Question = Callable[[str, dict[str, str]], Awaitable[Answer]]
"""Path and query in, the answer out."""


class HttpServer:
    """Answers GET on a listening socket until closed."""

    def __init__(self, answer: Question) -> None:
        self._answer = answer
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Begin to accept. The socket is the server's from now on."""
        listening = asyncio.start_server if listener.family != socket.AF_UNIX else asyncio.start_unix_server
        self._server = await listening(self._serve, sock=listener, limit=_MAX_HEAD)

    async def close(self) -> None:
        """Stop accepting, and end requests under way."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._clients.add(task)
        try:
            await _send(reader, writer, await self._ask(reader))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or we are about to
        finally:
            self._clients.discard(task)
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader) -> Answer:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return Answer(b"the request is too long\n", TEXT, "431 Request Header Fields Too Large")
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return Answer(b"not an HTTP/1 request\n", TEXT, "400 Bad Request")
        if words[0] != "GET":
            return Answer(b"only GET is served here\n", TEXT, "405 Method Not Allowed")
        if len(self._clients) > MAX_CLIENTS:
            return Answer(b"too many questions are under way: try again\n", TEXT, "503 Service Unavailable")
        try:
            target = urlsplit(words[1])
            query = dict(parse_qsl(target.query, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
        except ValueError as error:
            return Answer(f"not a target to GET: {error}\n".encode(errors="replace"), TEXT, "400 Bad Request")
        try:
            return await self._answer(unquote(target.path), query)
        except Exception:
            log.exception("GET %.200s failed unexpectedly", words[1])
            return Answer(b"failed unexpectedly: see the log\n", TEXT, "500 Internal Server Error")


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    length = f"Content-Length: {len(answer.body)}\r\n" if isinstance(answer.body, bytes) else ""
    head = f"HTTP/1.1 {answer.status}\r\nContent-Type: {answer.content_type}\r\n{length}Connection: close\r\n\r\n"
    writer.write(head.encode())
    if isinstance(answer.body, bytes):
        writer.write(answer.body)
        await _drain(writer)
        return
    gone = asyncio.ensure_future(reader.read(1))  # done when the client has hung up: there may be no part for long
    next_part = asyncio.ensure_future(_next(answer.body))
    try:
        while await asyncio.wait((next_part, gone), return_when=asyncio.FIRST_COMPLETED):
            if not next_part.done() or not (part := next_part.result()):
                return
            writer.write(part)
            await _drain(writer)
            next_part = asyncio.ensure_future(_next(answer.body))
    finally:
        gone.cancel()
        next_part.cancel()
        await asyncio.gather(gone, next_part, return_exceptions=True)


async def _next(parts: AsyncIterator[bytes]) -> bytes:
    return await anext(parts, b"")


async def _drain(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await writer.drain()
