"""A supervisor and a forkserver that share no version of their protocol tell each other so, and harm nothing."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator

import pytest

from supervisor.ipc.channel import HelperFailed
from supervisor.ipc.forkserver import ForkserverClient
from workers import protocol
from workers.greeting import FORKSERVER, Filters, Hello, Versions, Welcome

from ..harness.bare_forkserver import BareForkserver
from ..unit.standin import StandIn

LATER = Versions(FORKSERVER.highest + 1, FORKSERVER.highest + 2)


@pytest.fixture
def forkserver() -> Iterator[BareForkserver]:
    made = BareForkserver()
    yield made
    made.close()


def greet(forkserver: BareForkserver, versions: Versions) -> tuple[Welcome, bool]:
    """The answer to a supervisor of these versions, and whether the forkserver stays connected to it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(forkserver.address)
        reader = protocol.Reader(sock)
        protocol.send(sock, protocol.HELLO, Hello(versions).encode())
        assert reader.receive()
        (frame,) = reader.frames()
        assert frame.kind == protocol.WELCOME
        try:
            protocol.send(sock, protocol.PING, b"")
            return Welcome.decode(frame.body), reader.receive()
        except OSError:
            return Welcome.decode(frame.body), False


def test_forkserver_says_its_versions_to_one_that_speaks_none_of_them(forkserver: BareForkserver) -> None:
    welcome, stays = greet(forkserver, LATER)
    assert (str(welcome.versions), welcome.engines, stays) == (str(FORKSERVER), {}, False)


def test_forkserver_stays_with_one_that_speaks_more(forkserver: BareForkserver) -> None:
    welcome, stays = greet(forkserver, Versions(1, LATER.highest))
    assert str(welcome.versions) == str(FORKSERVER)
    assert welcome.engines
    assert stays


def test_supervisor_does_not_join_a_forkserver_of_other_versions() -> None:
    async def join() -> None:
        with tempfile.TemporaryDirectory() as folder:
            standin = StandIn(LATER)
            await standin.listen(f"{folder}/s")
            client = ForkserverClient(f"{folder}/s", Filters())
            try:
                with pytest.raises(HelperFailed, match=rf"of protocol {LATER} is running.*drain it first"):
                    await client.connect(lambda exits: None, lambda: None)
            finally:
                client.close()

    asyncio.run(join())
