"""Task events, forwarded to containerd over its ttrpc socket: in order, and without delaying calls."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from .convert import timestamp
from .errors import SandboxerError, Unavailable
from .proto import events_ttrpc_pb2 as pb
from .ttrpc.client import Client

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Events kept while the receiver is away; beyond it the oldest go."""
_SERVICE = "containerd.services.events.ttrpc.v1.Events"
_ANSWER_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Publisher:
    """Forwards events one after the other to the ttrpc socket at ``address``."""

    def __init__(self, address: str, optional: bool = False) -> None:
        """With ``optional`` events are dropped until there is such a socket: its owner may never come."""
        self._address = address
        self._expected = not optional
        self._waiting: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._client: Client | None = None
        self._lost = 0
        self.lost = 0
        """Events that found no room, ever."""

    def publish(self, namespace: str, topic: str, event: Message, at: int) -> None:
        """Queue an event that happened at ``at`` (nanoseconds)."""
        if not self._expected:
            self._expected = os.path.exists(self._address)
            if not self._expected:
                return
            log.info("events go to %s", self._address)
        envelope = pb.Envelope(
            timestamp=timestamp(at),
            namespace=namespace,
            topic=topic,
            event=Any(type_url=event.DESCRIPTOR.full_name, value=event.SerializeToString()),
        )
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._lost += 1
            self.lost += 1
        self._waiting.append(pb.ForwardRequest(envelope=envelope).SerializeToString())
        self._more.set()

    async def run(self) -> None:
        """Forward until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
            event = self._waiting[0]
            try:
                await self._forward(event)
            except (OSError, TimeoutError, Unavailable) as error:
                log.debug("events: %s is away: %s", self._address, error)
                self._hang_up()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            except SandboxerError as error:
                log.warning("events: %s refuses one: %s", self._address, error)
            pause = _FIRST_PAUSE
            if self._lost:
                log.warning("events: %d were lost while %s was away", self._lost, self._address)
                self._lost = 0
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()

    async def drain(self, seconds: float) -> None:
        """Give what is queued a little time to go out."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._waiting and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def _forward(self, event: bytes) -> None:
        if self._client is None:
            self._client = await Client.connect(self._address)
        async with asyncio.timeout(_ANSWER_SECONDS):
            await self._client.call(_SERVICE, "Forward", event)

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
