"""A task client's connection: whatever it sends, each of its requests has one answer, and nothing else ends of it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from google.protobuf.message import DecodeError

from sandbox_api import calls
from sandbox_api.errors import NotFound
from sandbox_api.proto import ttrpc_pb2 as pb
from sandbox_api.ttrpc import frames
from sandbox_api.ttrpc.connection import Connection, Shared

WORDS = (b"\0\0\0\x0a\0\0\0\1\1\0", b"\x0a\1s\x12\4read", b"\x0a\1s\x12\4wait", b"\x0a\1s\x12\6change")

_loop = asyncio.new_event_loop()
_faults: list[dict[str, Any]] = []
_loop.set_exception_handler(lambda loop, context: _faults.append(context))


async def _echo(namespace: str, payload: bytes) -> bytes:
    assert namespace
    return payload


async def _fail(namespace: str, payload: bytes) -> bytes:
    raise NotFound("there is none")


async def _pend(namespace: str, payload: bytes) -> bytes:
    await asyncio.get_running_loop().create_future()
    return b""


_METHODS: calls.Methods = {
    ("s", "read"): calls.Method("read", _echo, calls.Kind.READ),
    ("s", "change"): calls.Method("change", _fail, calls.Kind.CHANGE),
    ("s", "wait"): calls.Method("wait", _pend, calls.Kind.WAIT),
}


def run(data: bytes) -> None:
    _loop.run_until_complete(_serve(data))
    assert not _faults, _faults.pop()
    assert all(method.under_way == 0 for method in _METHODS.values())


async def _serve(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    closed: list[Connection] = []
    shared = Shared(_METHODS, None, _loop, memoryview(bytearray(65536)), lambda: None, closed.append)
    connection = Connection(shared, theirs)
    with ours:
        ours.settimeout(5)
        cut = data[-1] * len(data) // 256 if data else 0
        answers = b""
        reset = False
        try:
            for piece in (data[:cut], data[cut:]):
                ours.sendall(piece)
                await _settle()
            ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has hung up on the first piece
        await _settle()
        try:
            while part := ours.recv(65536):
                answers += part
        except ConnectionResetError:
            reset = True  # with the second piece unread
    assert closed == [connection]
    await _settle()
    if not reset:
        _check(data, answers)


async def _settle() -> None:
    for _ in range(6):  # what is readable, what it began, what came of that
        await asyncio.sleep(0)


def _check(data: bytes, answers: bytes) -> None:
    """As many answers as requests, but for Waits, each on a stream that was asked on.

    What cannot be a frame is answered, too, and ends the connection with all that is under way.
    """
    wanted: list[int] = []
    broken = -1
    waiting: set[int] = set()
    try:
        for frame in frames.Decoder().feed(data):
            if frame.type == frames.REQUEST:
                (waiting.add if _waits(frame, waiting) else wanted.append)(frame.stream)
    except frames.BrokenFrame as error:
        broken = error.stream
        wanted.append(broken)
    decoder = frames.Decoder()
    answered = list(decoder.feed(answers))
    assert not decoder.partial
    assert {frame.type for frame in answered} <= {frames.RESPONSE}
    for frame in answered:
        pb.Response.FromString(frame.message)
        if frame.stream in waiting and frame.stream not in wanted:
            continue  # its time was over
        wanted.remove(frame.stream)
    assert not wanted or any(frame.stream == broken for frame in answered)


def _waits(frame: frames.Frame, waiting: set[int]) -> bool:
    try:
        request = pb.Request.FromString(frame.message)
    except DecodeError:
        return False
    return (request.service, request.method) == ("s", "wait") and frame.stream & 1 == 1 and frame.stream not in waiting
