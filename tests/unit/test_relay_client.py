"""The supervisor's side of the relay, with a relay of another version and with a real one."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from pathlib import Path

import pytest

from supervisor.ipc.relay import RelayClient
from workers.protocol import encode, pack_numbers
from workers.relay_protocol import HELLO, HIGHEST_VERSION, WELCOME

_HEADER = struct.Struct("<IHH")


async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greet as a relay of later versions, and wait for the client's end."""
    length, kind, _ = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    assert kind == HELLO
    await reader.readexactly(length)
    writer.write(encode(WELCOME, pack_numbers(HIGHEST_VERSION + 1, HIGHEST_VERSION + 2))[0])
    await reader.read()
    writer.close()


def test_a_relay_of_another_version_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        path = str(tmp_path / "relay.sock")
        later = await asyncio.start_unix_server(welcome, path)
        client = RelayClient(path)
        async with asyncio.timeout(20):
            assert await client.take() == []
        later.close()
        client.close()
        return client.pid

    pid = asyncio.run(main())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert f"a relay of versions {HIGHEST_VERSION + 1} to {HIGHEST_VERSION + 2} is running" in caplog.text
