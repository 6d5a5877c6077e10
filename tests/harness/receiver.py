"""A receiver of events, as containerd is one."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from pathlib import Path
from typing import Any

from sandbox_api.calls import Kind, Method
from sandbox_api.proto import events_pb2, events_ttrpc_pb2
from sandbox_api.ttrpc.server import Server


class Receiver:
    """Stand-in for containerd's events service."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: queue.Queue[tuple[str, str, Any]] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    async def _serve(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        self._path.unlink(missing_ok=True)
        sock.bind(str(self._path))
        sock.listen()
        sock.setblocking(False)
        forward = Method("Forward", self._forward, Kind.CHANGE)
        self._server = Server({("containerd.services.events.ttrpc.v1.Events", "Forward"): forward})
        await self._server.start(sock)

    async def _forward(self, namespace: str, payload: bytes) -> bytes:
        envelope = events_ttrpc_pb2.ForwardRequest.FromString(payload).envelope
        assert envelope.timestamp.ToNanoseconds() > 0
        name = envelope.event.type_url.rpartition(".")[2]
        event = getattr(events_pb2, name).FromString(envelope.event.value)
        self.events.put((envelope.namespace, envelope.topic, event))
        return b""

    def take(self, count: int) -> list[tuple[str, str, Any]]:
        return [self.events.get(timeout=10) for _ in range(count)]

    def drop(self) -> int:
        """Forget all that have come so far; how many."""
        count = self.events.qsize()
        for _ in range(count):
            self.events.get()
        return count

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._path.unlink(missing_ok=True)
