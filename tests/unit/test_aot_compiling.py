"""The queue before the compilers, with a compiler that does as it is told."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.aot import compiling as compiling_module
from supervisor.aot.cache import Cache
from supervisor.aot.compiler_process import Outcome, _outcome
from supervisor.aot.compiling import Compiling, Job
from supervisor.aot.terms import Failure, Level, Limits, Verdict
from workers.compile_protocol import COMPILED
from workers.protocol import Frame

from .leaks import nothing_left_open


class FakeCompiler:
    """Counts what it compiles; it fails, or waits, where it is told to."""

    def __init__(self) -> None:
        self.compiled: list[tuple[bytes, Level]] = []
        self.idle: dict[Level, bool] = {}
        self.outcomes: dict[Level, Outcome] = {}
        self.gate: asyncio.Event | None = None
        self.running = 0
        self.cancelled = 0

    def limits_of(self, size: int) -> Limits:
        return Limits(10, 1 << 30)

    async def compile(self, module: int, level: Level, idle: bool) -> Outcome:
        content = os.pread(module, 1 << 20, 0)
        self.compiled.append((content, level))
        self.idle[level] = idle
        self.running += 1
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0.001))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if level in self.outcomes:
            return self.outcomes[level]
        product = os.memfd_create("product")
        os.write(product, b"\x7fELF" + content)
        return Outcome(Verdict.MADE, "", product)


class Bench:
    """A queue with a cache and a fake compiler."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compiler = FakeCompiler()
        self.cache = Cache(folder / "cache", 1 << 20, "0.14.1")
        self.compiling = Compiling(self.cache, self.compiler, ThreadPoolExecutor(2))

    def want(self, content: bytes, urgent: bool = False, digest: str = "") -> Job | None:
        path = self.folder / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        try:
            wanted = digest or hashlib.sha256(content).hexdigest()
            return self.compiling.want(wanted, fd, len(content), urgent)
        finally:
            os.close(fd)

    async def done(self, job: Job | None) -> list[Failure | None]:
        assert job is not None
        return [await asyncio.wait_for(asyncio.shield(result), 10) for result in job.results.values()]


def run(tmp_path: Path, check: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        before = len(os.listdir("/proc/self/fd"))
        try:
            await check(bench)
        finally:
            await bench.compiling.close()
        assert len(os.listdir("/proc/self/fd")) == before  # nothing stays open

    asyncio.run(main())


def test_a_module_goes_through_both_levels_once(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        job = bench.want(b"one")
        assert all(bench.want(b"one") is job for _ in range(9))
        assert await bench.done(job) == [None, None]
        assert bench.compiler.compiled == [(b"one", Level.O0), (b"one", Level.O2)]
        assert bench.compiler.idle == {Level.O0: False, Level.O2: True}
        assert bench.want(b"one") is None
        assert bench.compiling.missing(hashlib.sha256(b"one").hexdigest(), 3) == ()

    run(tmp_path, check)


def test_one_compile_at_a_time_the_small_first(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        bench.compiler.gate = asyncio.Event()
        bench.compiler.outcomes[Level.O2] = Outcome(Verdict.CRASHED)
        first = bench.want(b"first")
        while not bench.compiler.compiled:
            await asyncio.sleep(0.001)
        jobs = [bench.want(b"m" * size) for size in (500, 20, 300)]
        await asyncio.sleep(0.05)
        assert bench.compiler.running == 1
        bench.compiler.gate.set()
        for job in (first, *jobs):
            await bench.done(job)
        sizes = [len(content) for content, level in bench.compiler.compiled if level is Level.O0]
        assert sizes == [5, 20, 300, 500]

    run(tmp_path, check)


@pytest.mark.parametrize("verdict", [Verdict.CRASHED, Verdict.TIMED_OUT, Verdict.NO_MEMORY, Verdict.REFUSED])
def test_a_failure_at_one_level_is_not_tried_again_and_leaves_the_other(tmp_path: Path, verdict: Verdict) -> None:
    async def check(bench: Bench) -> None:
        bench.compiler.outcomes[Level.O2] = Outcome(verdict, "because")
        fast, better = await bench.done(bench.want(b"one"))
        assert fast is None
        assert str(better) == f"{verdict}: because"
        assert bench.want(b"one") is None

    run(tmp_path, check)


def test_what_the_node_lacks_for_now_counts_for_no_other_start(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        bench.compiler.outcomes = dict.fromkeys(Level, Outcome(Verdict.UNABLE, "no compiler", lacking=errno.EAGAIN))
        failures = await bench.done(bench.want(b"one"))
        assert [failure and failure.lacking for failure in failures] == [errno.EAGAIN] * 2
        bench.compiler.outcomes = {}
        assert await bench.done(bench.want(b"one")) == [None, None]

    run(tmp_path, check)


def test_a_module_that_fails_at_the_first_level_is_tried_at_the_other(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        bench.compiler.outcomes[Level.O0] = Outcome(Verdict.CRASHED)
        fast, better = await bench.done(bench.want(b"one"))
        assert fast is not None
        assert better is None
        assert bench.want(b"one") is None

    run(tmp_path, check)


def test_a_product_that_is_none_is_a_failure(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        for level in Level:
            bench.compiler.outcomes[level] = Outcome(Verdict.MADE, "", os.memfd_create("empty"))
        failures = await bench.done(bench.want(b"one"))
        assert [failure.verdict for failure in failures if failure] == [Verdict.REFUSED] * 2

    run(tmp_path, check)


def test_a_module_that_changes_after_it_was_hashed_is_not_compiled(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        failures = await bench.done(bench.want(b"changed", digest=hashlib.sha256(b"before").hexdigest()))
        assert [failure.verdict for failure in failures if failure] == [Verdict.UNABLE] * 2
        assert bench.compiler.compiled == []

    run(tmp_path, check)


def test_a_module_that_changes_while_it_waits_is_compiled_as_it_was(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        bench.compiler.gate = asyncio.Event()
        first = bench.want(b"first")
        while not bench.compiler.compiled:
            await asyncio.sleep(0.001)
        second = bench.want(b"waits here")
        assert second is not None
        while second.module < 0:
            await asyncio.sleep(0.001)
        with (tmp_path / second.digest).open("r+b") as file:
            file.write(b"WAITS")
        bench.compiler.gate.set()
        await bench.done(first)
        await bench.done(second)
        assert {content for content, _ in bench.compiler.compiled} == {b"first", b"waits here"}

    run(tmp_path, check)


def test_a_full_queue_takes_urgent_modules_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling_module, "MOST_JOBS", 2)

    async def check(bench: Bench) -> None:
        bench.compiler.gate = asyncio.Event()
        jobs = [bench.want(b"one"), bench.want(b"two")]
        assert bench.want(b"three") is None
        jobs.append(bench.want(b"four", urgent=True))
        bench.compiler.gate.set()
        for job in jobs:
            await bench.done(job)
        assert bench.want(b"three") is not None

    run(tmp_path, check)


def test_the_end_ends_compilers_and_whoever_waits(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        bench.compiler.gate = asyncio.Event()
        jobs = [bench.want(b"one"), bench.want(b"two")]
        while not bench.compiler.compiled:
            await asyncio.sleep(0.001)
        await bench.compiling.close()
        assert bench.compiler.cancelled == 1
        for job in jobs:
            assert all(failure and failure.verdict is Verdict.UNABLE for failure in await bench.done(job))

    run(tmp_path, check)


@pytest.mark.parametrize(("body", "count"), [(b"", 1), (b"?", 1), (b"M", 0), (b"M", 2), (b"Rwhy", 1)])
def test_an_answer_that_is_none_leaves_nothing_open(body: bytes, count: int) -> None:
    with nothing_left_open():
        outcome = _outcome(Frame(COMPILED, body, [os.dup(0) for _ in range(count)]))
    assert outcome.product == -1
    assert outcome.verdict in (Verdict.UNABLE, Verdict.REFUSED)
    assert outcome.text.isprintable()


def test_a_product_whose_descriptor_is_lost_is_a_lack_of_descriptors() -> None:
    outcome = _outcome(Frame(COMPILED, b"M\0\x90c\0\0\0\0\0\0", [], lost=True))
    assert (outcome.verdict, outcome.lacking) == (Verdict.UNABLE, errno.EMFILE)
    assert outcome.text == "what was compiled: Too many open files"
