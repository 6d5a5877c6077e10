"""The supervisor's side of the relay, beside relays that other builds left."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import Unavailable
from supervisor.ipc.channel import HelperFailed
from supervisor.ipc.relay import Kept, RelayClient
from workers.protocol import Frame, Reader, encode, pack_numbers, unpack_numbers
from workers.relay_protocol import (
    DROP,
    HELD,
    HELLO,
    HIGHEST_KEEPING,
    HIGHEST_VERSION,
    JOURNAL,
    KEPT,
    TAKE,
    TAKEN,
    TASKS,
    VERSIONS,
    WELCOME,
)

from .leaks import nothing_left_open

_HEADER = struct.Struct("<IHH")
SECONDS = 20


@pytest.mark.parametrize("versions", [(3, 3), (HIGHEST_VERSION, HIGHEST_VERSION, *[HIGHEST_KEEPING + 1] * 2)])
def test_a_relay_that_cannot_be_understood_is_not_joined(tmp_path: Path, versions: tuple[int, ...]) -> None:
    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length, kind, _ = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        assert kind == HELLO
        await reader.readexactly(length)
        writer.write(encode(WELCOME, pack_numbers(*versions))[0])
        await reader.read()
        writer.close()

    async def main() -> int:
        other = await asyncio.start_unix_server(welcome, str(tmp_path / "relay.sock"))
        client = RelayClient(str(tmp_path / "relay-build.sock"))
        async with asyncio.timeout(SECONDS):
            with pytest.raises(HelperFailed, match="a relay is running that this version cannot join: drain it"):
                await client.take()
        other.close()
        client.close()
        return client.pid

    assert asyncio.run(main()) == 0, "none of ours was started"


class Other:
    """A relay that answers TAKE with what a test wants."""

    def __init__(self, folder: Path, *held: tuple[int, int, list[int]]) -> None:
        """``held``: kind of message, number, descriptors."""
        self._held = held
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "relay-build.sock"))
        self._listener.listen()
        self.told: list[tuple[int, tuple[int, ...]]] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(SECONDS)
        reader = Reader(sock)
        with suppress(ConnectionError), closing(reader):
            while reader.receive():
                for frame in reader.frames():
                    self._obey(reader, frame)

    def _obey(self, reader: Reader, frame: Frame) -> None:
        self.told.append((frame.kind, unpack_numbers(frame.body)))
        frame.close()
        if frame.kind == HELLO:
            reader.answer(WELCOME, pack_numbers(*VERSIONS))
        elif frame.kind == TAKE:
            for kind, number, fds in self._held:
                reader.answer(kind, pack_numbers(number), fds)
            reader.answer(TAKEN, b"")

    def join(self) -> None:
        """Wait until its supervisor has gone."""
        self._thread.join(SECONDS)
        self._listener.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_connection_without_its_descriptor_is_given_up_alone(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main() -> None:
        with client(tmp_path, "build") as relay:
            async with asyncio.timeout(SECONDS):
                (kept,) = await relay.take()
            assert kept.key == 2
            assert os.path.sameopenfile(kept.fd, pair[0].fileno())
            os.close(kept.fd)
            await relay._greet()

    with nothing_left_open():
        other = Other(tmp_path, (KEPT, 1, []), (KEPT, 2, [pair[0].fileno()]))
        asyncio.run(main())
        other.join()
    assert [numbers for kind, numbers in other.told if kind == DROP] == [(1,)]


@pytest.mark.parametrize("number", [JOURNAL, TASKS, 1000])
def test_what_a_relay_holds_without_its_descriptor_cannot_be_taken_over(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], number: int
) -> None:
    async def main() -> None:
        with client(tmp_path, "build") as relay:
            async with asyncio.timeout(SECONDS):
                with pytest.raises(HelperFailed, match=f"no descriptor of what it holds as number {number}"):
                    await relay.take()

    with nothing_left_open():
        other = Other(tmp_path, (KEPT, 2, [pair[0].fileno()]), (HELD, number, []))
        asyncio.run(main())
        other.join()


def test_a_listening_socket_that_is_none_cannot_be_taken_over(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main() -> None:
        with client(tmp_path, "build") as relay:
            async with asyncio.timeout(SECONDS):
                with pytest.raises(Unavailable, match="the relay died"):
                    await relay.take()

    with open("/dev/null") as null, nothing_left_open():
        other = Other(tmp_path, (HELD, TASKS, [null.fileno()]))
        asyncio.run(main())
        other.join()


@contextmanager
def client(folder: Path, build: str) -> Iterator[RelayClient]:
    """A supervisor's of a build; what its relay has at its end stays there."""
    made = RelayClient(str(folder / f"relay-{build}.sock"))
    yield made
    made.close()


def wait_on(relay: RelayClient, stream: int) -> socket.socket:
    """A client's end of a connection with a Wait on it."""
    theirs, ours = socket.socketpair()
    key = relay.reserve(ours.fileno())
    relay.begin(key, stream, b"wait")
    relay.keep(key)
    ours.close()
    return theirs


def test_what_a_relay_holds_goes_from_build_to_build_and_back(tmp_path: Path) -> None:
    """Connections, their calls and the listening sockets; the relay that gave them goes."""
    pids, clients = [], []

    async def begin() -> None:
        with client(tmp_path, "first") as relay:
            await relay.take()
            pids.append(relay.pid)
            relay.listen(1, tmp_path / "listen")
            clients.extend(wait_on(relay, stream) for stream in (1, 3))
            await relay._greet()  # it has all that it was told before

    async def go_on(build: str, dropped: int = 0) -> list[Kept]:
        with client(tmp_path, build) as relay:
            kept = await relay.take()
            pids.append(relay.pid)
            assert relay.listen(1, tmp_path / "listen").getsockname() == str(tmp_path / "listen")
            if dropped:
                relay.drop(dropped)
                await relay._greet()
            for each in kept:
                os.close(each.fd)
            return kept

    waiting = socket.socket(socket.AF_UNIX)
    asyncio.run(begin())
    waiting.connect(str(tmp_path / "listen"))
    kept = asyncio.run(go_on("second"))
    assert [[call.stream for call in each.pending] for each in kept] == [[1], [3]]
    gone(pids[0])
    assert [each.key for each in asyncio.run(go_on("first", dropped=kept[0].key))] == [each.key for each in kept]
    gone(pids[1])
    assert clients[0].recv(1) == b"", "it was dropped, and nobody has a copy"
    assert [each.key for each in asyncio.run(go_on("third"))] == [kept[1].key]
    clients[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        clients[1].recv(1)
    for each in (waiting, *clients):
        each.close()
    psutil.Process(pids[-1]).kill()
    os.waitpid(pids[-1], 0)


def test_a_hand_over_that_was_cut_short_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new relay has all, and the old one does, too."""
    clients: list[socket.socket] = []

    async def begin() -> None:
        with client(tmp_path, "first") as relay:
            await relay.take()
            clients.extend(wait_on(relay, stream) for stream in (1, 3))
            await relay._greet()

    async def die() -> None:
        with client(tmp_path, "second") as relay:
            monkeypatch.setattr("workers.relay_protocol.RELEASE", HELLO)
            kept = await relay.take()
            monkeypatch.undo()
            for each in kept:
                os.close(each.fd)

    async def go_on() -> list[Kept]:
        with client(tmp_path, "second") as relay:
            kept = await relay.take()
            for each in kept:
                relay.drop(each.key)
                os.close(each.fd)
            await relay._greet()
            relay.shut_down()
            return kept

    asyncio.run(begin())
    asyncio.run(die())
    assert [[call.stream for call in each.pending] for each in asyncio.run(go_on())] == [[1], [3]]
    for each in clients:
        assert each.recv(1) == b""
        each.close()
    for _ in range(2):
        os.wait()


def gone(pid: int) -> None:
    """Wait until a relay has gone; it is our child."""
    assert os.waitpid(pid, 0)[0] == pid
