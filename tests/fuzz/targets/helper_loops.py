"""Relay and logger: any messages with any descriptors end the supervisor's connection at most, and leave nothing open.

The first byte says which of the two. Then each message is four bytes (kind, number and sort of its descriptors, length
of its body) and its body.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import io
import os
import select
import tempfile
from collections.abc import Iterator
from typing import Any

from workers import protocol, relay_protocol
from workers.helper import Helper
from workers.logger import Logger
from workers.relay import Relay

MOST = 2048
_r = relay_protocol
KINDS = (
    *(_r.HELLO, _r.END, _r.PUMP, _r.CLOSE, _r.RESIZE, _r.KEEP, _r.DROP, _r.HOLD, _r.TAKE, _r.FORWARD, _r.LOG),
    *(_r.FINISH, _r.WELCOME),
)
"""A new one comes last: inputs in the tree name them by number."""
NUMBERS = tuple(protocol.pack_numbers(number) for number in (0, 1, 2, -1, 1 << 62))
WORDS = (*NUMBERS, b"\x18\0\0\0", b"log", b"..", b"/")
_ROUNDS = 8


class _Listener:
    """Nobody connects by it."""

    def __init__(self) -> None:
        self._fds = os.pipe()

    def fileno(self) -> int:
        return self._fds[0]

    def accept(self) -> None:
        raise AssertionError("nobody is there")

    def left(self) -> None:
        pass

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


def run(data: bytes) -> None:
    if not data:
        return
    listener = _Listener()
    ours, theirs = _socket.socketpair()
    with tempfile.TemporaryDirectory(prefix="fuzz-helper-") as folder, _silence():
        helper: Helper = (Logger if data[0] & 1 else Relay)(listener)  # type: ignore[arg-type]
        try:
            ours.setblocking(False)
            theirs.setblocking(False)
            helper._readers[ours.fileno()] = protocol.Reader(ours)
            helper._poll.register(ours.fileno(), select.EPOLLIN)
            for kind, body, fds in _messages(data[1:], folder):
                try:
                    _send(theirs, kind, body, fds)
                except OSError:
                    break
                finally:
                    for fd in fds:
                        os.close(fd)
                _turn(helper, theirs)
        finally:
            theirs.close()
            close_helper(helper)
            listener.close()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _turn(helper: Helper, theirs: _socket.socket) -> None:
    """What the loop does as long as something is to be done (``Helper.run``)."""
    for _ in range(_ROUNDS):
        events = helper._poll.poll(0)
        for fd, event in events + [(fd, select.EPOLLIN) for fd in helper._files]:
            if fd in helper._readers:
                helper._receive(fd)
            else:
                helper._serve(fd, event)
        with contextlib.suppress(OSError):
            _, ancillary, *_ = theirs.recvmsg(1 << 16, _socket.CMSG_SPACE(protocol.MAX_FDS * 4))
            fds = array.array("i")
            for _, _, payload in ancillary:
                fds.frombytes(payload)
            for fd in fds:
                os.close(fd)
        if not events:
            break


def _messages(data: bytes, folder: str) -> Iterator[tuple[int, bytes, list[int]]]:
    at = 0
    while len(data) - at >= 4:
        kind, count, sort, length = data[at : at + 4]
        body = data[at + 4 : at + 4 + length]
        at += 4 + length
        yield (
            (KINDS[kind % len(KINDS)] if kind < 200 else kind),
            body,
            [_open(sort + i, folder) for i in range(count % 4)],
        )


def _open(sort: int, folder: str) -> int:
    """A descriptor of some sort, whose other end, if it has one, is gone."""
    match sort % 5:
        case 0 | 1:
            pair = os.pipe()
            os.close(pair[1 - sort % 5])
            return pair[sort % 5]
        case 2:
            return os.open("/dev/null", os.O_RDWR)
        case 3:
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    left, right = _socket.socketpair()
    right.close()
    return left.detach()


def _send(sock: _socket.socket, kind: int, body: bytes, fds: list[int]) -> None:
    data, rights = protocol.encode(kind, body, fds)
    assert sock.sendmsg([data], rights) == len(data)


def close_helper(helper: Any) -> None:
    """Close what it holds, each once: what two parts of it hold fails."""
    helper._poll.close()
    for reader in helper._readers.values():
        reader.close()
    if isinstance(helper, Relay):
        pumps = set(helper._pumps.values())
        for fd in (*helper._kept.values(), *helper._held.values(), *helper._standing):
            os.close(fd)
        for pump in pumps:
            os.close(pump.source)
            os.close(pump.sink)
    else:
        for log in helper._logs.values():
            for stream in log.streams:
                os.close(stream.fd)
            log.sink.close()
