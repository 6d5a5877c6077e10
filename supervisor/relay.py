"""The supervisor's side of the relay between guests and their clients' FIFOs. Started when first needed."""

from __future__ import annotations

import asyncio

from workers import protocol

from .helper import Helper
from .streams import Pump


class Relay:
    """Hands pumps to the relay process."""

    def __init__(self, path: str) -> None:
        self._helper = Helper("relay", path, lambda frame: frame.close(), lambda: None)
        self._connecting = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the relay process, where we started it."""
        return self._helper.pid

    async def ready(self) -> None:
        """Join the relay, or start it. Raises ``HelperFailed``."""
        async with self._connecting:
            if not self._helper.connected:
                await self._helper.connect()

    def pump(self, instance: int, pump: Pump) -> None:
        """Move bytes for an instance until one side ends. The descriptors stay the caller's."""
        self._helper.send(protocol.PUMP, protocol.pack_numbers(instance, pump.kind), [pump.source, pump.sink])

    async def close_input(self, instance: int) -> None:
        """End an instance's input after what is in its FIFO already."""
        await self.ready()
        self._helper.send(protocol.CLOSE, protocol.pack_numbers(instance))

    async def resize(self, instance: int, width: int, height: int) -> None:
        """Set the size of an instance's terminal, in characters."""
        await self.ready()
        self._helper.send(protocol.RESIZE, protocol.pack_numbers(instance, width, height))

    def end(self) -> None:
        """Tell the relay, if there is one, to go."""
        if self._helper.connected:
            self._helper.send(protocol.END, b"")

    def close(self) -> None:
        """Let go of the relay, which goes on while it has something to move."""
        self._helper.close()
