"""Messages in the frames between supervisor and helpers, and reports of processes that a stranger may have taken over.

The first byte is the message's number in ``MESSAGES``: any bytes decode to what encodes to the same, or are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sandbox_api.errors import SandboxerError
from supervisor.aot.compiler_process import Outcome, _outcome
from supervisor.ipc import reports
from supervisor.ipc.journal import Journal
from workers import protocol
from workers.compile_protocol import Request
from workers.greeting import Hello, Versions, Welcome
from workers.image_protocol import ImageReport, ImageRequest
from workers.start_request import StartRequest

from ..values import check, check_text

WORDS = (
    protocol.LOADED,
    protocol.READY,
    protocol.FAILED,
    protocol.REFUSED,
    b"wasmtime",
    b"calls, version 2",
    b"\xff" * 8,
)
MOST = 8192


def run(data: bytes) -> None:
    if data:
        MESSAGES[data[0] % len(MESSAGES)](data[1:])


def _codec(kind: Any) -> Callable[[bytes], None]:
    def decode(body: bytes) -> None:
        try:
            first = kind.decode(body)
        except protocol.ProtocolError as error:
            check_text(error)
            return
        again = kind.decode(first.encode())
        assert again.encode() == first.encode()
        for name in kind.__slots__:
            if name != "preopens" and isinstance(getattr(first, name), bytes | str | int | list):
                assert getattr(first, name) == getattr(again, name), name
        if kind is Versions:
            assert first.common(again) == first.highest

    return decode


def _start(body: bytes) -> None:
    _codec(StartRequest)(body)
    try:
        request = StartRequest.decode(body, 10)
    except protocol.ProtocolError:
        return
    assert sorted(request.descriptors.fds) == list(range(10, 10 + len(request.descriptors.fds)))
    assert body.endswith(StartRequest.likeness(body))
    other = StartRequest.decode(request.encode())
    other.instance += 1 if other.instance < 1 << 62 else -1
    assert StartRequest.likeness(other.encode()) == StartRequest.likeness(request.encode())


def _fields(body: bytes) -> None:
    for decode, encode in (
        (protocol.unpack, protocol.pack),
        (protocol.unpack_tagged, protocol.pack_tagged),
        (protocol.unpack_numbers, lambda numbers: protocol.pack_numbers(*numbers)),
    ):
        try:
            found: Any = decode(body)
        except protocol.ProtocolError:
            continue
        assert encode(found) == body


def _report(body: bytes) -> None:
    """A worker's report: the guest's process writes what it likes once it is loaded."""
    pid, loaded, verdict = protocol.unpack_report(body)
    assert 0 <= pid < 1 << 32
    for status in (0, 9, 256 * 134, 31):
        error = reports.refusal(verdict, status, False, loaded)
        assert isinstance(error, SandboxerError)
        check_text(error)


def _compiled(body: bytes) -> None:
    """The compiler process's answer."""
    for count in (0, 1, 2):
        fds = [os.dup(2) for _ in range(count)]
        outcome = _outcome(protocol.Frame(49, body, fds))
        assert isinstance(outcome, Outcome)
        assert (outcome.product >= 0) <= (count == 1)
        if outcome.product >= 0:
            os.close(outcome.product)
        check((outcome.text, outcome.flags, outcome.memory >> 10))


def _journal(body: bytes) -> None:
    fd = os.memfd_create("calls", os.MFD_CLOEXEC)
    os.write(fd, body)
    journal = Journal(fd)
    try:
        found = journal.pending()
        for connection, calls in found.items():
            for call in calls:
                assert os.pread(fd, len(call.request), call.place + 16) == call.request
                assert connection < 1 << 32
        places = {call.place for calls in found.values() for call in calls}
        added = journal.begin(1, 3, b"x" * 100)
        assert added not in places
        for place in (*places, added):
            journal.end(place)
    finally:
        journal.close()


MESSAGES: tuple[Callable[[bytes], None], ...] = (
    *(_start, _codec(Hello), _codec(Welcome), _codec(ImageRequest), _codec(ImageReport), _codec(Request)),
    *(_codec(Versions), _fields, _report, _compiled, _journal),
)
"""A new one comes last: inputs in the tree name them by number."""
