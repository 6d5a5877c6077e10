"""A supervisor and a forkserver of different versions: what runs is kept where both can speak of it."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator

import pytest

from supervisor.ipc.channel import HelperFailed
from supervisor.ipc.forkserver import ForkserverClient
from workers import protocol
from workers.greeting import FORKSERVER, KEEPING, Filters, Hello, Versions, Welcome

from ..harness.bare_forkserver import BareForkserver
from ..unit.standin import StandIn

LATER = Versions(FORKSERVER.highest + 1, FORKSERVER.highest + 2)
LATER_KEEPING = Versions(KEEPING.highest + 1, KEEPING.highest + 1)


@pytest.fixture
def forkserver() -> Iterator[BareForkserver]:
    made = BareForkserver()
    yield made
    made.close()


def greet(forkserver: BareForkserver, hello: Hello, then: int = protocol.PING) -> tuple[Welcome, bool]:
    """The answer to a supervisor's hello, and whether the forkserver answers what it is told ``then``."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(forkserver.address)
        reader = protocol.Reader(sock)
        protocol.send(sock, protocol.HELLO, hello.encode())
        assert reader.receive()
        (frame,) = reader.frames()
        assert frame.kind == protocol.WELCOME
        try:
            protocol.send(sock, then, b"")
            return Welcome.decode(frame.body), reader.receive()
        except OSError:
            return Welcome.decode(frame.body), False


@pytest.mark.parametrize("keeping", [None, LATER_KEEPING])
def test_forkserver_says_its_versions_to_one_that_speaks_none_of_them(
    forkserver: BareForkserver, keeping: Versions | None
) -> None:
    welcome, stays = greet(forkserver, Hello(LATER, keeping=keeping))
    assert (str(welcome.versions), str(welcome.keeping), stays) == (str(FORKSERVER), str(KEEPING), False)
    assert welcome.engines == {}


@pytest.mark.parametrize("hello", [Hello(LATER), Hello(FORKSERVER, keep=True)])
def test_forkserver_keeps_what_it_has_and_starts_no_more(forkserver: BareForkserver, hello: Hello) -> None:
    welcome, stays = greet(forkserver, hello)
    assert welcome.engines
    assert stays
    assert not greet(forkserver, hello, protocol.START)[1]
    assert greet(forkserver, Hello(FORKSERVER))[1], "it may be taken up again"


def test_forkserver_stays_with_one_that_speaks_more(forkserver: BareForkserver) -> None:
    welcome, stays = greet(forkserver, Hello(Versions(1, LATER.highest), keeping=Versions(1, LATER_KEEPING.highest)))
    assert str(welcome.versions) == str(FORKSERVER)
    assert welcome.engines
    assert stays


@pytest.mark.parametrize("keeping", [None, LATER_KEEPING])
def test_supervisor_does_not_join_a_forkserver_that_it_cannot_understand(keeping: Versions | None) -> None:
    async def join() -> None:
        with tempfile.TemporaryDirectory() as folder:
            standin = StandIn(LATER, keeping)
            await standin.listen(f"{folder}/forkserver.sock")  # as it was named before 0.2.0
            client = ForkserverClient(f"{folder}/forkserver-build.sock", Filters())
            try:
                with pytest.raises(HelperFailed, match=rf"of protocol {LATER} is running.*drain it"):
                    await client.join_earlier()
            finally:
                client.close()

    asyncio.run(join())
