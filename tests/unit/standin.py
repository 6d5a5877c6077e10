"""A stand-in for the forkserver: it speaks the control protocol, runs nothing, and keeps what it is told."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import astuple

from supervisor.ipc.inventory import Ended
from workers.greeting import EXIT_NUMBERS, FORKSERVER, KEEPING, Versions, Welcome
from workers.protocol import (
    ACK,
    EXITED,
    FORKED,
    HELLO,
    START,
    WELCOME,
    encode,
    pack_numbers,
    pack_rows,
    unpack_numbers,
    unpack_tagged,
)

INSTANCE = 1
"""Tag of a START's number (``workers.start_request``)."""
PID = 1 << 30
"""Of a worker that there is not."""
_HEADER = struct.Struct("<IHH")


class StandIn:
    """Listens where a launcher will look for the forkserver."""

    def __init__(self, versions: Versions = FORKSERVER, keeping: Versions | None = KEEPING) -> None:
        self._versions = versions
        self._keeping = keeping
        self.exits: list[int] = []
        """The numbers of exits that it has to tell a new supervisor."""
        self.greeted = 0
        """How often a supervisor has said HELLO."""
        self.deaf = 0
        """How many HELLOs it does not answer."""
        self.on_start: Callable[[int], None] = self.run_and_die
        """What it does at a START of this instance."""
        self.acknowledged: asyncio.Queue[tuple[int, ...]] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def listen(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    def exited(self, exits: Sequence[Ended]) -> None:
        """Tell of these."""
        numbers = [number for each in exits for number in astuple(each)]
        self._send(EXITED, pack_rows(EXIT_NUMBERS, numbers))

    def hang_up(self) -> None:
        """Close the connection, and listen on."""
        assert self._writer is not None
        self._writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                length, kind, _ = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                body = await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                return
            if kind == HELLO:  # and not at the connection: one only looks whether somebody listens
                self._writer = writer
                self.greeted += 1
                if self.deaf:
                    self.deaf -= 1
                    continue
                engines = {b"wasmedge": b"0.14"}
                welcome = Welcome(self._versions, engines, exits=self.exits, keeping=self._keeping)
                self._send(WELCOME, welcome.encode())
            elif kind == ACK:
                self.acknowledged.put_nowait(unpack_numbers(body))
            elif kind == START:
                self.on_start(int.from_bytes(unpack_tagged(body)[INSTANCE], "little"))

    def forked(self, instance: int, pid: int) -> None:
        """Tell of a worker."""
        self._send(FORKED, pack_numbers(instance, pid, 0, 0))

    def run(self, instance: int) -> None:
        """Fork a worker, which ends at once."""
        self.forked(instance, PID)
        self.exited([Ended(instance, PID, 5 << 8, 1)])

    def run_and_die(self, instance: int) -> None:
        """A start that comes out well: its guest ends at once, and so does the forkserver."""
        self.run(instance)
        assert self._writer is not None
        assert self._server is not None
        self._server.close()
        self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def _send(self, kind: int, body: bytes) -> None:
        assert self._writer is not None
        self._writer.write(encode(kind, body)[0])
