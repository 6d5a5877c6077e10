"""File systems are asked aside, for a bounded time, and by a bounded number of threads."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from sandbox_api.errors import TooManyCalls, Unavailable
from supervisor.host import volumes


def test_what_does_not_answer_is_named_and_holds_a_thread_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    server = threading.Event()
    monkeypatch.setattr(volumes, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(volumes, "MAX_UNANSWERED", 1)
    monkeypatch.setattr(os, "stat", lambda path: server.wait(30) if path == "/gone" else None)

    async def ask() -> None:
        asked = volumes.Volumes()
        await asked.answer(["/there"])
        with pytest.raises(Unavailable, match=r"^/gone: its file system has not answered"):
            await asked.answer(["/there", "/gone", "/behind it"])
        with pytest.raises(TooManyCalls):
            await asked.answer(["/there"])
        server.set()
        async with asyncio.timeout(30):
            while asked.unanswered:
                await asyncio.sleep(0.01)
        await asked.answer(["/there", "/gone"])

    asyncio.run(ask())


def test_a_path_that_cannot_be_is_an_answer() -> None:
    asyncio.run(volumes.Volumes().answer(["/no/such/file", "a\0b"]))
