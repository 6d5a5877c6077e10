"""The logger where it cannot begin a log, and its client where loggers die one after the other."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from supervisor.ipc.logger import LoggerClient, _Logged
from supervisor.oci import container_log
from workers import protocol
from workers.logger import Logger
from workers.relay_protocol import JSON_FILE, LOG, LOGGING

from .leaks import nothing_left_open


class Listener:
    """Nobody connects by it."""

    def __init__(self, fd: int) -> None:
        self.fileno = lambda: fd


@pytest.mark.parametrize("second", [False, True])
def test_a_log_that_cannot_begin_leaves_nothing(tmp_path: Path, second: bool) -> None:
    """Its number, and the number of a closed descriptor, stayed on record: another's output would have gone there."""
    with nothing_left_open(), socket.socket() as listener:
        logger: Any = Logger(Listener(listener.fileno()))  # type: ignore[arg-type]
        ours, theirs = socket.socketpair()
        reader = protocol.Reader(ours)
        pipe, sink = os.pipe()
        null, folder = os.open("/dev/null", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
        fds = [pipe, null, folder] if second else [null, pipe, folder]
        body = protocol.pack([protocol.pack_numbers(7, JSON_FILE, 0, 1), b"c1", b"log"])
        frame = protocol.Frame(LOG, body, fds)  # epoll takes no /dev/null
        logger._obey(frame, reader)
        answer = protocol.Reader(theirs)
        answer.receive()
        (said,) = answer.frames()
        assert (said.kind, protocol.unpack_numbers(said.body)) == (LOGGING, (7, errno.EPERM))
        assert (logger._logs, logger._streams) == ({}, {})
        assert {fd for fd, _ in logger._poll.poll(0)} <= {listener.fileno()}
        logger._poll.close()
        reader.close()
        answer.close()
        os.close(sink)


def test_a_log_is_handed_on_once_although_two_loggers_died(tmp_path: Path) -> None:
    """The second one in the middle of its greeting: what is held for it is for the third."""
    client: Any = LoggerClient(str(tmp_path / "logger.sock"), tmp_path)
    for name in ("7.out", "7.err"):
        os.mkfifo(tmp_path / name)
    guest = client._guests[7] = _Logged("c", container_log.JsonLog(""))
    client._forget()
    held = list(guest.held)
    client._forget()
    assert guest.held == held
    assert len(held) == 2
    guest.release()
