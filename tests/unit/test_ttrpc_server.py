"""The ttrpc server and client against each other: calls in flight, errors, timeouts, and clients that go away."""

from __future__ import annotations

import asyncio
import socket
import tempfile

import pytest

from sandbox_api.errors import NotFound, Unavailable, Unimplemented
from sandbox_api.proto import ttrpc_pb2 as pb
from sandbox_api.ttrpc import frames
from sandbox_api.ttrpc.client import Client

from .ttrpc import SECONDS, SERVICE, Methods, Raw, run, serving

DEADLINE_EXCEEDED = 4


def test_many_are_in_flight_and_each_gets_its_own_answer() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Client.connect(path)
        names = [b"%d" % number for number in range(200)]
        calls = {name: asyncio.create_task(client.call(SERVICE, "Wait", name)) for name in names}
        await methods.have_begun(len(names))
        for name in reversed(names):  # answered last come first
            methods.gates[name].set()
            assert await calls.pop(name) == name
            assert not any(call.done() for call in calls.values())
        client.close()

    run(test)


def test_the_namespace_travels_along() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Client.connect(path)
        assert await client.call(SERVICE, "Echo", b"x", "k8s.io") == b"k8s.io/x"
        assert await client.call(SERVICE, "Echo", b"x") == b"default/x"
        client.close()

    run(test)


@pytest.mark.parametrize(("service", "method"), [(SERVICE, "Fly"), ("nobody", "Echo"), ("", "")])
def test_a_method_that_nobody_serves(service: str, method: str) -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Client.connect(path)
        with pytest.raises(Unimplemented, match=f"{service}/{method}"):
            await client.call(service, method, b"")
        client.close()

    run(test)


def test_an_error_comes_with_its_text() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Client.connect(path)
        with pytest.raises(NotFound, match=r"^no such café$"):
            await client.call(SERVICE, "Fail", "no such café".encode())
        client.close()

    run(test)


def test_an_error_about_a_name_that_is_no_unicode_comes_too() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Client.connect(path)
        async with asyncio.timeout(1):
            with pytest.raises(NotFound, match="no such caf"):
                await client.call(SERVICE, "Fail", b"no such caf\xe9")
        client.close()

    run(test)


def test_calls_fail_when_the_server_hangs_up() -> None:
    async def test(methods: Methods, path: str) -> None:
        async with serving() as (others, its_path):
            client = await Client.connect(its_path)
            call = asyncio.create_task(client.call(SERVICE, "Wait", b"x"))
            await others.have_begun(1)
        with pytest.raises(Unavailable):
            await call
        with pytest.raises(Unavailable):
            await client.call(SERVICE, "Echo", b"x")

    run(test)


# Clients that go away


def test_only_a_wait_ends_with_its_client() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Client.connect(path)
        calls = [asyncio.create_task(client.call(SERVICE, name, name.encode())) for name in ("Start", "Wait")]
        await methods.have_begun(2)
        client.close()
        assert await methods.cancelled.get() == b"Wait"
        methods.gates[b"Start"].set()
        assert await methods.ended.get() == b"Start"
        assert methods.cancelled.empty()
        for call in calls:
            with pytest.raises(Unavailable):
                await call

    run(test)


@pytest.mark.parametrize("after", [b"", b"\xff" * 20])
def test_a_call_runs_even_if_its_client_goes_or_breaks_at_once(after: bytes) -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.send(1, "Start", b"x")
        client.writer.write(after)
        client.writer.close()
        await methods.have_begun(1)
        methods.gates[b"x"].set()
        assert await methods.ended.get() == b"x"

    run(test)


def test_a_wait_behind_an_answer_that_finds_its_client_gone_does_not_begin() -> None:
    """Nobody would cancel it."""

    async def test(methods: Methods, path: str) -> None:
        calls = [("Unknown", b""), ("Wait", b"w"), ("Start", b"s")]
        requests = [pb.Request(service=SERVICE, method=name, payload=payload) for name, payload in calls]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            for number, request in enumerate(requests):
                client.sendall(frames.encode(2 * number + 1, frames.REQUEST, request.SerializeToString()))
        await methods.have_begun(1)
        assert list(methods.gates) == [b"s"]
        methods.gates[b"s"].set()
        assert await methods.ended.get() == b"s"

    run(test)


# Timeouts


def test_a_call_runs_on_when_its_time_is_up() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.send(1, "Start", b"x", timeout=1_000_000)
        stream, answer = await client.answer()
        assert (stream, answer.status.code) == (1, DEADLINE_EXCEEDED)
        assert "0.001 s" in answer.status.message
        methods.gates[b"x"].set()
        assert await methods.ended.get() == b"x"
        client.writer.close()

    run(test)


def test_a_call_whose_time_was_up_does_not_answer_the_next_of_its_stream() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.send(1, "Start", b"x", timeout=1_000_000)
        assert (await client.answer())[1].status.code == DEADLINE_EXCEEDED
        client.send(1, "Wait", b"y")
        await methods.have_begun(2)
        for payload in (b"x", b"y"):
            methods.gates[payload].set()
            assert await methods.ended.get() == payload
        assert await client.answer() == (1, pb.Response(payload=b"y"))
        client.writer.close()

    run(test)


def test_a_wait_ends_when_its_time_is_up() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.send(1, "Wait", b"x", timeout=1_000_000)
        assert (await client.answer())[1].status.code == DEADLINE_EXCEEDED
        assert await methods.cancelled.get() == b"x"
        client.writer.close()

    run(test)


@pytest.mark.parametrize("timeout", [0, -1, -(1 << 63), (1 << 63) - 1])
def test_other_timeouts_end_nothing(timeout: int) -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.send(1, "Echo", b"x", timeout)
        assert (await client.answer())[1].payload == b"default/x"
        client.writer.close()

    run(test)


def test_a_timeout_of_the_handler_s_own_is_not_the_caller_s() -> None:
    async def test(methods: Methods, path: str) -> None:
        client = await Raw.connect(path)
        client.send(1, "Slow")
        assert (await client.answer())[1].status.code == 13
        client.writer.close()

    run(test)


def test_the_client_survives_a_server_that_talks_nonsense() -> None:
    async def main() -> None:
        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"\xff" * 20)

        with tempfile.TemporaryDirectory() as folder:
            server = await asyncio.start_unix_server(nonsense, f"{folder}/s")
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
            client = await Client.connect(f"{folder}/s")
            with pytest.raises(Unavailable):
                await asyncio.wait_for(client.call(SERVICE, "Echo", b""), SECONDS)
            server.close()

    asyncio.run(main())
