"""In which states a call is let through: the others are refused, by a text that says which state it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, NotFound, SandboxerError, Unavailable
from sandbox_api.interface import Exit, NewContainer, NewExec, NewSandbox, Stdio
from supervisor.model.process import Process, ProcessState
from supervisor.model.sandbox import SandboxState
from supervisor.services.unstarted import START_WITHIN, Unstarted

from .parts import NS, Parts

CREATED, STARTING, RUNNING, PAUSED, STOPPED = ProcessState
TERM, CHLD = 15, 17
EXEC = NewExec("c", "e", b'{"args": ["/app.wasm"]}')

Call = Callable[[Parts], Awaitable[object]]


def run(main: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(bounded())


async def outcome(call: Awaitable[object]) -> type[SandboxerError] | None:
    try:
        await call
    except SandboxerError as error:
        return type(error)
    return None


# Containers. Unavailable is what is let through, as far as the forkserver that is not there.

TASK_CALLS: dict[str, tuple[Call, dict[ProcessState, type[SandboxerError] | None]]] = {
    "start": (
        lambda parts: parts.tasks.start(NS, "c", ""),
        {CREATED: Unavailable} | dict.fromkeys((STARTING, RUNNING, PAUSED, STOPPED), FailedPrecondition),
    ),
    "exec": (
        lambda parts: parts.tasks.exec(NS, EXEC),
        {RUNNING: None} | dict.fromkeys((CREATED, STARTING, PAUSED, STOPPED), FailedPrecondition),
    ),
    "kill": (
        lambda parts: parts.tasks.kill(NS, "c", "", TERM, False),
        {CREATED: None, STOPPED: NotFound},
    ),
    "kill all": (
        lambda parts: parts.tasks.kill(NS, "c", "", TERM, True),
        {CREATED: None, STOPPED: NotFound},
    ),
    "kill with signal 0": (
        lambda parts: parts.tasks.kill(NS, "c", "", 0, False),
        {CREATED: None, STARTING: None, STOPPED: NotFound},
    ),
    "delete": (
        lambda parts: parts.tasks.delete(NS, "c", ""),
        {CREATED: None, STOPPED: None} | dict.fromkeys((STARTING, RUNNING, PAUSED), FailedPrecondition),
    ),
    "resume": (
        lambda parts: parts.tasks.resume(NS, "c"),
        dict.fromkeys((CREATED, STARTING, RUNNING, STOPPED), FailedPrecondition),
    ),
    "pause": (
        lambda parts: parts.tasks.pause(NS, "c"),
        dict.fromkeys((CREATED, STARTING, PAUSED, STOPPED), FailedPrecondition),
    ),
    "update": (
        lambda parts: parts.tasks.update(NS, "c", b"{}"),
        dict.fromkeys((STARTING, STOPPED), FailedPrecondition),
    ),
    "resize": (
        lambda parts: parts.tasks.resize_pty(NS, "c", "", 80, 25),
        dict.fromkeys(ProcessState, FailedPrecondition),  # it has no terminal
    ),
    "state": (lambda parts: parts.tasks.state(NS, "c", ""), dict.fromkeys(ProcessState)),
    "pids": (lambda parts: parts.tasks.pids(NS, "c"), dict.fromkeys((RUNNING, PAUSED))),
    "stats": (lambda parts: parts.tasks.stats(NS, "c"), dict.fromkeys((CREATED, STARTING, STOPPED))),
    "connect": (lambda parts: parts.tasks.connect(NS, "c"), dict.fromkeys(ProcessState)),
    "close stdin": (lambda parts: parts.tasks.close_io(NS, "c", ""), dict.fromkeys(ProcessState)),
}
CASES = [(name, state, wanted) for name, (_, states) in TASK_CALLS.items() for state, wanted in states.items()]


@pytest.mark.parametrize(("name", "state", "wanted"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_container_s_states(
    tmp_path: Path, name: str, state: ProcessState, wanted: type[SandboxerError] | None
) -> None:
    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await parts.create("c")
        init = parts.registry.container(NS, "c").init
        init.state = state
        if state is STOPPED:
            init.mark_exited(Exit(0, 1))
        call = TASK_CALLS[name][0](parts)
        if wanted is FailedPrecondition and name != "resize":
            with pytest.raises(FailedPrecondition, match=rf"^c: cannot .*: it is {state}$"):
                await call
        else:
            assert await outcome(call) is wanted

    run(test())


@pytest.mark.parametrize("name", TASK_CALLS)
def test_a_container_that_is_deleted(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await parts.create("c")
        await parts.tasks.delete(NS, "c", "")
        assert await outcome(TASK_CALLS[name][0](parts)) is NotFound

    run(test())


def test_a_start_that_fails_may_be_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await parts.create("c")
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"^container c: "):
                await parts.tasks.start(NS, "c", "")
        assert parts.registry.container(NS, "c").init.state is CREATED

    run(test())


def test_a_signal_ends_what_never_ran_if_it_would_have_ended_it(tmp_path: Path) -> None:
    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await parts.create("c")
        waiting = asyncio.create_task(parts.tasks.wait(NS, "c", ""))
        await parts.tasks.kill(NS, "c", "", CHLD, False)
        assert parts.registry.container(NS, "c").init.state is CREATED
        await parts.tasks.kill(NS, "c", "", TERM, False)
        assert (await waiting).status == 128 + TERM
        ((recorded, _, _),) = parts.store.containers()
        assert recorded.init.exit == await waiting

    run(test())


# Sandboxes

SANDBOX_CALLS: dict[str, tuple[Call, dict[str, type[SandboxerError] | None]]] = {
    "start": (
        lambda parts: parts.sandboxes.start(NS, "pod"),
        {"created": None, "ready": FailedPrecondition, "stopping": FailedPrecondition, "notready": FailedPrecondition},
    ),
    "create a container in it": (
        lambda parts: parts.create("c"),
        {"created": FailedPrecondition, "ready": None, "stopping": FailedPrecondition, "notready": FailedPrecondition},
    ),
    "prepare a container in it": (
        lambda parts: parts.sandboxes.prepare(NS, "pod", NewContainer("c", b'{"process": 1}')),
        {"created": FailedPrecondition, "stopping": FailedPrecondition, "notready": FailedPrecondition},
    ),
    "stop": (lambda parts: parts.sandboxes.stop(NS, "pod", 0), {"created": None, "ready": None, "notready": None}),
    "shutdown": (lambda parts: parts.sandboxes.shutdown(NS, "pod"), {"created": None, "ready": None, "notready": None}),
    "status": (
        lambda parts: parts.sandboxes.status(NS, "pod", True),
        {"created": None, "ready": None, "stopping": None, "notready": None},
    ),
    "platform": (lambda parts: parts.sandboxes.platform(NS, "pod"), {"created": None, "ready": None, "notready": None}),
    "metrics": (lambda parts: parts.sandboxes.metrics(NS, "pod"), {"created": None, "ready": None, "notready": None}),
    "wait": (lambda parts: parts.sandboxes.wait(NS, "pod"), {"notready": None}),
}
SANDBOX_CASES = [
    (name, state, wanted) for name, (_, states) in SANDBOX_CALLS.items() for state, wanted in states.items()
]


@pytest.mark.parametrize(
    ("name", "state", "wanted"), SANDBOX_CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_sandbox_s_states(tmp_path: Path, name: str, state: str, wanted: type[SandboxerError] | None) -> None:
    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.sandboxes.create(NS, NewSandbox("pod"))
        sandbox = parts.registry.sandbox(NS, "pod")
        if state == "stopping":
            sandbox.state, sandbox.stopping = SandboxState.READY, True
        elif state == "notready":
            await parts.sandboxes.stop(NS, "pod", 0)
        else:
            sandbox.state = SandboxState(state)
        call = SANDBOX_CALLS[name][0](parts)
        if wanted is FailedPrecondition:
            with pytest.raises(FailedPrecondition, match=rf"sandbox pod: cannot {name}: it is {state}$"):
                await call
        else:
            assert await outcome(call) is wanted

    run(test())


@pytest.mark.parametrize("name", SANDBOX_CALLS)
def test_a_sandbox_that_is_shut_down(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await parts.sandboxes.shutdown(NS, "pod")
        wanted = None if name in ("stop", "shutdown") else NotFound
        assert await outcome(SANDBOX_CALLS[name][0](parts)) is wanted

    run(test())


def test_everybody_who_waits_for_a_sandbox_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        waiting = [asyncio.create_task(parts.sandboxes.wait(NS, "pod")) for _ in range(3)]
        given_up = asyncio.create_task(parts.sandboxes.wait(NS, "pod"))
        await asyncio.wait([given_up], timeout=0)
        given_up.cancel()
        await parts.sandboxes.stop(NS, "pod", 0)
        exits = await asyncio.gather(*waiting, parts.sandboxes.wait(NS, "pod"))
        assert {ended.status for ended in exits} == {0}
        assert len({ended.at for ended in exits}) == 1

    run(test())


# Processes


def test_everybody_who_waits_for_a_process_is_told() -> None:
    async def test() -> None:
        process = Process(1, "c", "", Stdio())
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0)
        waiting.pop().cancel()
        process.mark_exited(Exit(7, 5))
        assert await asyncio.gather(*waiting, process.wait()) == [Exit(7, 5)] * 3

    run(test())


def test_waiters_are_told_of_a_deletion() -> None:
    async def test() -> None:
        process = Process(1, "c", "", Stdio())
        waiting = asyncio.create_task(process.wait())
        await asyncio.wait([waiting], timeout=0)
        process.forget()
        with pytest.raises(NotFound, match="c: deleted"):
            await waiting

    run(test())


async def _unstarted(parts: Parts) -> None:
    await parts.pod()
    await parts.sandboxes.create(NS, NewSandbox("never-started"))
    unstarted = Unstarted(parts.registry, parts.sandboxes)
    await unstarted.remove(time.time_ns())
    assert len(parts.registry.sandboxes) == 2
    await unstarted.remove(time.time_ns() + int((START_WITHIN + 1) * 1e9))
    assert list(parts.registry.sandboxes) == [(NS, "pod")]
    assert [sandbox.id for sandbox in parts.store.sandboxes()] == ["pod"]


def test_a_sandbox_that_is_never_started_is_removed(tmp_path: Path) -> None:
    asyncio.run(_unstarted(Parts(tmp_path)))
