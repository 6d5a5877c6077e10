"""The ttrpc server against clients that break the rules: each is told so, and nobody else notices."""

from __future__ import annotations

import asyncio
import resource

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbox_api.errors import ResourceExhausted
from sandbox_api.proto import ttrpc_pb2 as pb
from sandbox_api.ttrpc import frames
from sandbox_api.ttrpc.client import Client
from sandbox_api.ttrpc.connection import MAX_IN_FLIGHT, MAX_UNREAD

from .ttrpc import SERVICE, Methods, Raw, run

INVALID_ARGUMENT, RESOURCE_EXHAUSTED = 3, 8


def test_a_stream_in_use_or_an_even_one_is_refused() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.send(1, "Wait", b"first")
        client.send(1, "Echo")
        client.send(2, "Echo")
        client.send(0, "Echo")
        for number in (1, 2, 0):
            stream, answer = await client.answer()
            assert (stream, answer.status.code) == (number, INVALID_ARGUMENT)
            assert f"stream {number} " in answer.status.message
        methods.gates[b"first"].set()
        assert (await client.answer())[1].payload == b"first"
        client.send(1, "Echo", b"again")  # free by now
        assert (await client.answer())[1].payload == b"default/again"
        client.writer.close()

    run(test)


def test_more_than_enough_in_flight_is_refused_until_one_is_answered() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        for number in range(MAX_IN_FLIGHT):
            client.send(2 * number + 1, "Start", b"%d" % number)
        client.send(2 * MAX_IN_FLIGHT + 1, "Echo")
        stream, answer = await client.answer()
        assert (stream, answer.status.code) == (2 * MAX_IN_FLIGHT + 1, RESOURCE_EXHAUSTED)
        methods.gates[b"7"].set()
        assert await client.answer() == (15, pb.Response(payload=b"7"))
        client.send(2 * MAX_IN_FLIGHT + 3, "Echo", b"x")
        assert (await client.answer())[1].payload == b"default/x"
        client.writer.close()

    run(test)


def test_a_client_that_reads_no_answers_is_not_read_either() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        payload = bytes(64 << 10)
        sent, most = 0, 2 * MAX_UNREAD // len(payload) + 256  # socket buffers on both sides come on top
        while sent < 4 * most:
            client.send(2 * sent + 1, "Echo", payload)
            sent += 1
            try:
                await asyncio.wait_for(client.writer.drain(), 1)
            except TimeoutError:
                break
        assert sent < most
        other = await Raw.connect(path)
        other.send(1, "Echo", b"x")
        assert (await other.answer())[1].payload == b"default/x"
        assert sorted([(await client.answer())[0] for _ in range(sent)]) == [2 * at + 1 for at in range(sent)]
        client.send(2 * sent + 1, "Echo", b"again")
        assert (await client.answer())[1].payload == b"default/again"
        other.writer.close()
        client.writer.close()

    run(test)


def test_waits_have_their_own_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandbox_api.ttrpc.connection.MAX_WAITS", 3 * MAX_IN_FLIGHT)

    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        for number in range(3 * MAX_IN_FLIGHT):
            client.send(2 * number + 1, "Wait", b"%d" % number)
        await methods.have_begun(3 * MAX_IN_FLIGHT)
        refused = 6 * MAX_IN_FLIGHT + 1
        client.send(refused, "Wait")
        stream, answer = await client.answer()
        assert (stream, answer.status.code) == (refused, RESOURCE_EXHAUSTED)
        client.send(refused, "Echo", b"x")
        assert (await client.answer())[1].payload == b"default/x"
        methods.gates[b"7"].set()
        assert await client.answer() == (15, pb.Response(payload=b"7"))
        client.send(refused, "Wait", b"7")
        assert await client.answer() == (refused, pb.Response(payload=b"7"))
        client.writer.close()

    run(test)


def test_more_waiting_connections_than_descriptors_are_told_so_and_all_else_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))  # half of it is for Waits

    async def test(methods: Methods, path: str) -> None:
        clients = [await Client.connect(path) for _ in range(32)]
        waits = [asyncio.create_task(client.call(SERVICE, "Wait", b"x")) for client in clients]
        await methods.have_begun(len(waits))
        clients.append(await Client.connect(path))
        with pytest.raises(ResourceExhausted, match="32 connections are open"):
            await clients[-1].call(SERVICE, "Wait", b"x")
        clients += [await Client.connect(path) for _ in range(16)]  # as many as are let in beside
        assert await clients[-1].call(SERVICE, "Echo", b"x") == b"default/x"
        late = await Client.connect(path)
        later = asyncio.create_task(late.call(SERVICE, "Echo", b"late"))
        assert await clients[-1].call(SERVICE, "Echo", b"x") == b"default/x"
        assert not later.done()
        clients.pop().close()
        assert await later == b"default/late"
        late.close()
        methods.gates.setdefault(b"x", asyncio.Event()).set()
        assert await asyncio.gather(*waits) == [b"x"] * 32
        for client in clients:
            client.close()

    run(test)


def test_a_request_that_is_none_is_refused_and_the_next_is_served() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.writer.write(frames.encode(1, frames.REQUEST, b"\xff\xff"))
        assert (await client.answer())[1].status.code == INVALID_ARGUMENT
        client.writer.write(frames.encode(3, frames.DATA, b"nothing streams here"))
        client.send(3, "Echo", b"x")
        assert await client.answer() == (3, pb.Response(payload=b"default/x"))
        client.writer.close()

    run(test)


def test_a_frame_too_long_ends_its_connection_after_saying_why() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.writer.write((frames.MAX_MESSAGE + 1).to_bytes(4, "big") + b"\0\0\0\x09\1\0")
        stream, answer = await client.answer()
        assert (stream, answer.status.code) == (9, RESOURCE_EXHAUSTED)
        await client.until_hung_up()

    run(test)


REQUESTS = st.builds(
    lambda service, method, payload, timeout: pb.Request(
        service=service, method=method, payload=payload, timeout_nano=timeout
    ).SerializeToString(),
    st.sampled_from((SERVICE, "", "x")),
    st.sampled_from(("Echo", "Fail", "Slow", "")),
    st.text(max_size=20).map(str.encode),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
GARBAGE = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            frames.encode,
            st.integers(0, 2**32 - 1),
            st.integers(0, 255) | st.just(frames.REQUEST),
            st.one_of(st.binary(max_size=40), REQUESTS),
        ),
    )
).map(b"".join)


@given(GARBAGE)
@settings(max_examples=200)
@example(frames.encode(1, frames.REQUEST, b"\x0a\xff"))
@example(b"\0\0\0\0\0\0\0\1\4\0")
def test_garbage_harms_nobody_else(garbage: bytes) -> None:
    async def test(methods: Methods, path: str) -> None:
        bystander = await Client.connect(path)
        waiting = asyncio.create_task(bystander.call(SERVICE, "Wait", b"x"))
        await methods.have_begun(1)

        client = await Raw.connect(path)
        client.writer.write(garbage)
        client.writer.write_eof()
        await client.until_hung_up()
        client.writer.close()

        late = await Client.connect(path)
        assert await late.call(SERVICE, "Echo", b"x") == b"default/x"
        late.close()
        methods.gates[b"x"].set()
        assert await waiting == b"x"
        bystander.close()

    run(test)
