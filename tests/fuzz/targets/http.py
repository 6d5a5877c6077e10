"""Requests to --metrics and info.sock: any bytes have one answer, and a client that has not sent all has none."""

from __future__ import annotations

import asyncio

from supervisor.host.http import JSON, TEXT, Answer, HttpServer

WORDS = (b"GET /containers?name=a HTTP/1.1\r\n\r\n", b"%00", b"http://[", b"//", b"?", b"#", b"HTTP/1.", b"POST ")

_asked: list[tuple[str, dict[str, str]]] = []
_loop = asyncio.new_event_loop()


async def _answer(path: str, query: dict[str, str]) -> Answer:
    _asked.append((path, query))
    return Answer(b"{}")


_server = HttpServer(_answer)


def run(data: bytes) -> None:
    _asked.clear()
    whole = b"\r\n\r\n" in data
    try:
        answer = _loop.run_until_complete(_ask(data))
    except asyncio.IncompleteReadError:
        assert not whole
        return
    assert len(_asked) == (answer.content_type == JSON)
    assert answer.status.split()[0] in ("200", "400", "405", "431"), (answer.status, answer.body)
    if _asked:
        path, query = _asked[0]
        assert data.startswith(b"GET ")
        assert all(isinstance(each, str) for each in (path, *query, *query.values()))
    else:
        assert answer.content_type == TEXT


async def _ask(data: bytes) -> Answer:
    reader = asyncio.StreamReader(limit=16 << 10)
    reader.feed_data(data)
    reader.feed_eof()
    return await _server._ask(reader)
