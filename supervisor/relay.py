"""The supervisor's side of the relay, which feeds guests' standard inputs. Started when first needed."""

from __future__ import annotations

import asyncio
import os

from workers import protocol

from .helper import Helper


class Relay:
    """Hands pumps to the relay process."""

    def __init__(self, path: str) -> None:
        self._helper = Helper("relay", path, lambda frame: frame.close(), lambda: None)
        self._connecting = asyncio.Lock()

    async def ready(self) -> None:
        """Join the relay, or start it. Raises ``HelperFailed``."""
        async with self._connecting:
            if not self._helper.connected:
                await self._helper.connect()

    def pump(self, instance: int, source: int, sink: int) -> None:
        """Feed ``sink`` from ``source`` until one of them ends. Both are the relay's from now on."""
        try:
            self._helper.send(protocol.PUMP, protocol.pack_numbers(instance), [source, sink])
        finally:
            for fd in (source, sink):
                os.close(fd)

    def close_input(self, instance: int) -> None:
        """End an instance's input after what is in its FIFO already."""
        if self._helper.connected:
            self._helper.send(protocol.CLOSE, protocol.pack_numbers(instance))

    def end(self) -> None:
        """Tell the relay, if there is one, to go."""
        if self._helper.connected:
            self._helper.send(protocol.END, b"")

    def close(self) -> None:
        """Let go of the relay, which goes on while it has something to feed."""
        self._helper.close()
