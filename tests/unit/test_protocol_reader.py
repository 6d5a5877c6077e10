"""The control protocol's reader: each frame gets its own descriptors, however the bytes come; and none are lost."""

from __future__ import annotations

import array
import os
import resource
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.protocol import MAX_BODY, MAX_FDS, Frame, ProtocolError, Reader, encode, send

from .leaks import nothing_left_open

HEADER = struct.Struct("<IHH")  # body length, kind, descriptors

# Kind, body, number of descriptors
FRAMES = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=20), st.integers(0, 3)), max_size=6)
CUTS = st.lists(st.integers(0, 200), max_size=20)


class Numbered:
    """Descriptors that can be told apart wherever they arrive."""

    def __init__(self) -> None:
        self._made: list[int] = []

    def make(self, count: int) -> list[int]:
        fds = [os.memfd_create("test", os.MFD_CLOEXEC) for _ in range(count)]
        self._made += fds
        return fds

    def close(self) -> None:
        for fd in self._made:
            os.close(fd)


def inodes(fds: Sequence[int]) -> list[int]:
    return [os.fstat(fd).st_ino for fd in fds]


@contextmanager
def connection() -> Iterator[tuple[socket.socket, Reader, Numbered]]:
    """A socket to write to, the reader at its other end, and descriptors to send: none of any may be left."""
    with nothing_left_open():
        ours, theirs = socket.socketpair()
        reader, numbered = Reader(theirs), Numbered()
        try:
            yield ours, reader, numbered
        finally:
            ours.close()
            reader.close()
            numbered.close()


def send_bytes(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    assert sock.sendmsg([data], rights) == len(data)


@given(FRAMES, CUTS, st.booleans())
def test_each_frame_gets_its_own(frames: list[tuple[int, bytes, int]], cuts: list[int], at_once: bool) -> None:
    """The bytes are cut anywhere; where not, they are glued together. All are sent at once, or read one by one."""
    with connection() as (sock, reader, numbered):
        data, rights, wanted = b"", {}, []
        for kind, body, count in frames:
            fds = numbered.make(count)
            wanted.append((kind, body, inodes(fds)))
            if fds:
                rights[len(data)] = fds
            data += encode(kind, body, fds)[0]
        ends = sorted({0, len(data)} | rights.keys() | {cut for cut in cuts if cut < len(data)})
        came = []
        for start, end in pairwise(ends):
            send_bytes(sock, data[start:end], rights.get(start, ()))
            if not at_once:
                assert reader.receive()
                came += list(reader.frames())
        sock.shutdown(socket.SHUT_WR)
        while reader.receive():
            came += list(reader.frames())
        assert [(frame.kind, frame.body, inodes(frame.fds)) for frame in came] == wanted
        assert not any(os.get_inheritable(fd) for frame in came for fd in frame.fds)
        for frame in came:
            frame.close()


def test_the_largest_frame_goes_through() -> None:
    with connection() as (sock, reader, numbered):
        body = os.urandom(100_000)
        send(sock, 7, body, numbered.make(MAX_FDS))
        came = []
        while not came:
            assert reader.receive()
            came = list(reader.frames())
        (frame,) = came
        assert (frame.kind, frame.body, len(frame.fds)) == (7, body, MAX_FDS)
        frame.close()
        frame.close()  # once is enough, twice does no harm


def test_a_frame_that_never_becomes_whole() -> None:
    with connection() as (sock, reader, numbered):
        send_bytes(sock, HEADER.pack(10, 1, 2) + b"half", numbered.make(2))
        sock.shutdown(socket.SHUT_WR)
        assert reader.receive()
        assert list(reader.frames()) == []
        assert not reader.receive()


def test_nothing_there_yet() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs, pytest.raises(BlockingIOError):
        Reader(theirs).receive()


@pytest.mark.parametrize(
    ("header", "fds", "match"),
    [
        (HEADER.pack(0, 1, 3), 2, "3 descriptors announced, 2 came"),
        (HEADER.pack(MAX_BODY + 1, 1, 0), 1, "too large"),
        (HEADER.pack(0, 1, MAX_FDS + 1), 1, "too large"),
        (HEADER.pack(2**32 - 1, 0, 65535), 0, "too large"),
    ],
)
def test_a_broken_frame(header: bytes, fds: int, match: str) -> None:
    with connection() as (sock, reader, numbered):
        send_bytes(sock, header, numbered.make(fds))
        assert reader.receive()
        with pytest.raises(ProtocolError, match=match):
            list(reader.frames())


def come(reader: Reader, frames: list[Frame], count: int) -> None:
    """Read until there are this many."""
    while len(frames) < count:
        assert reader.receive()
        frames += reader.frames()


def test_descriptors_that_found_no_room() -> None:
    """The frame says so, has none, and those around it have theirs."""
    with connection() as (sock, reader, numbered):
        before, lost, after = numbered.make(1), numbered.make(5), numbered.make(2)
        _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        send(sock, 1, b"before", before)
        send(sock, 2, b"none", ())
        send(sock, 3, b"lost", lost)
        send(sock, 4, b"after", after)
        came: list[Frame] = []
        come(reader, came, 1)
        first_free = os.dup(sock.fileno())
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 3, hard))
        try:
            come(reader, came, 3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        come(reader, came, 4)
        assert [(frame.kind, frame.body, frame.lost) for frame in came] == [
            (1, b"before", False),
            (2, b"none", False),
            (3, b"lost", True),
            (4, b"after", False),
        ]
        assert [inodes(frame.fds) for frame in came] == [inodes(before), [], [], inodes(after)]
        for frame in came:
            frame.close()


def test_descriptors_that_were_not_announced_go_to_no_frame() -> None:
    with connection() as (sock, reader, numbered):
        send_bytes(sock, HEADER.pack(0, 1, 0), numbered.make(1))
        own = numbered.make(1)
        send_bytes(sock, HEADER.pack(0, 2, 1), own)
        came = []
        try:
            for _ in range(2):
                assert reader.receive()
                came += list(reader.frames())
        except ProtocolError:
            return
        finally:
            given_away = [inodes(frame.fds) for frame in came]
            for frame in came:
                frame.close()
        assert given_away == [[], inodes(own)]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.integers(0, 3)), max_size=8))
def test_any_bytes_and_descriptors(messages: list[tuple[bytes, int]]) -> None:
    with connection() as (sock, reader, numbered):
        for data, count in messages:
            send_bytes(sock, data, numbered.make(count))
        sock.shutdown(socket.SHUT_WR)
        try:
            while reader.receive():
                for frame in reader.frames():
                    frame.close()
        except ProtocolError:
            pass
