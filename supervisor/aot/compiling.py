"""The queue before the compilers: every module once, the small before the large, one compile at a time on a level."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import logging
import os
import tempfile
import time
from concurrent.futures import Executor
from typing import Protocol

from ..host.counters import Counters
from ..host.futures import settle
from .cache import Cache
from .compiler_process import Outcome
from .terms import Failure, Level, Limits, Verdict

log = logging.getLogger(__name__)

MOST_JOBS = 256
MOST_BYTES = 1 << 30
"""Modules that may wait: their copies take disk space."""


class Compiler(Protocol):
    """The compiler; ``compiler_process.CompilerProcess``."""

    def limits_of(self, size: int) -> Limits:
        """Limits of a compile of so many bytes."""
        ...

    async def compile(self, module: int, level: Level, idle: bool) -> Outcome:
        """Compile the opened module."""
        ...


class Job:
    """A module on its way through the levels it is to be compiled at."""

    def __init__(self, digest: str, size: int, levels: tuple[Level, ...]) -> None:
        self.digest = digest
        self.size = size
        self.module = -1
        """A copy of the module: the bytes that were hashed are compiled, even if the file is written meanwhile."""
        loop = asyncio.get_running_loop()
        self.results: dict[Level, asyncio.Future[Failure | None]] = {level: loop.create_future() for level in levels}
        """For each level, once it is done, why there is no product; None where there is."""


class Compiling:
    """Jobs and two workers: for O0 at once, and for the better level when the processors are idle."""

    def __init__(
        self,
        cache: Cache,
        compiler: Compiler,
        threads: Executor,
        eager: bool = False,
        counters: Counters | None = None,
        levels: tuple[Level, ...] = tuple(Level),
    ) -> None:
        """``eager`` gives no processor time away; ``levels`` are the compiler's, the first being the one waited for."""
        self._levels = levels
        self._cache = cache
        self._compiler = compiler
        self._threads = threads
        self._eager = eager
        self._counters = counters or Counters()
        self._jobs: dict[str, Job] = {}
        self._bytes = 0
        self._order = itertools.count()
        self._queues: dict[Level, list[tuple[int, int, Job]]] = {level: [] for level in levels}
        self._news = {level: asyncio.Event() for level in levels}
        self._workers = [asyncio.create_task(self._work(level)) for level in levels]
        self._admitting: set[asyncio.Task[None]] = set()

    def missing(self, digest: str, size: int) -> tuple[Level, ...]:
        """The levels at which a module of this digest is still to be compiled."""
        levels = []
        for level in reversed(self._levels):  # a product makes those of lower levels needless
            if self._cache.has(digest, level):
                break
            if self.failure(digest, level, size) is None:
                levels.append(level)
        return tuple(reversed(levels))

    def failure(self, digest: str, level: Level, size: int) -> Failure | None:
        """The failure on record of a module of this digest and size, unless more is allowed by now."""
        return self._cache.failure(digest, level, self._compiler.limits_of(size))

    def want(self, digest: str, module: int, size: int, urgent: bool = False) -> Job | None:
        """See to it that an opened module is compiled; the job, or None where there is nothing (more) to be done.

        Where too much waits already the module is passed over, unless it is ``urgent``. Never waits.
        """
        job = self._jobs.get(digest)
        if job is not None:
            return job
        levels = self.missing(digest, size)
        if not levels:
            return None
        if not urgent and (len(self._jobs) >= MOST_JOBS or self._bytes + size > MOST_BYTES):
            log.debug("%.12s: not compiled now: too much waits already", digest)
            return None
        job = self._jobs[digest] = Job(digest, size, levels)
        self._bytes += size
        task = asyncio.create_task(self._admit(job, os.dup(module)))
        self._admitting.add(task)
        task.add_done_callback(self._admitting.discard)
        return job

    async def close(self) -> None:
        """Give up what waits, and end the compilers."""
        for worker in self._workers:
            worker.cancel()
        # Copies under way are waited for: each is a descriptor to be closed.
        await asyncio.gather(*self._workers, *self._admitting, return_exceptions=True)
        for job in list(self._jobs.values()):
            self._end(job)

    async def _admit(self, job: Job, module: int) -> None:
        """Take a copy of the module and queue it."""
        loop = asyncio.get_running_loop()
        try:
            job.module = await loop.run_in_executor(self._threads, self._copy, module, job.digest)
        except OSError as error:
            log.warning("%.12s: not compiled: %s", job.digest, error)
        if job.module < 0:
            self._end(job)
        else:
            self._queue(job)

    def _copy(self, module: int, digest: str) -> int:
        """Copy the module to a file that is ours alone; -1 where it is not (any more) of this digest."""
        seen = hashlib.sha256()
        try:
            with tempfile.TemporaryFile(dir=self._cache.folder, suffix=".part", buffering=0) as file:
                at = 0
                while chunk := os.pread(module, 1 << 20, at):
                    seen.update(chunk)
                    file.write(chunk)
                    at += len(chunk)
                if seen.hexdigest() != digest:
                    return -1
                return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(module)

    def _queue(self, job: Job) -> None:
        """Bring a job to the next of its levels, or to its end."""
        for level, result in job.results.items():
            if not result.done():
                heapq.heappush(self._queues[level], (job.size, next(self._order), job))
                self._news[level].set()
                return
        self._end(job)

    def _end(self, job: Job) -> None:
        if self._jobs.pop(job.digest, None) is None:
            return
        self._bytes -= job.size
        if job.module >= 0:
            os.close(job.module)
        for result in job.results.values():
            settle(result, Failure(Verdict.UNABLE, "given up", self._compiler.limits_of(job.size)))

    async def _work(self, level: Level) -> None:
        queue, news = self._queues[level], self._news[level]
        while True:
            while not queue:
                news.clear()
                await news.wait()
            _, _, job = heapq.heappop(queue)
            failure = await self._compile(job, level)
            job.results[level].set_result(failure)
            self._queue(job)

    async def _compile(self, job: Job, level: Level) -> Failure | None:
        began, limits, lacking = time.monotonic(), self._compiler.limits_of(job.size), 0
        try:
            outcome = await self._compiler.compile(job.module, level, level is not self._levels[0] and not self._eager)
            verdict, text, lacking = outcome.verdict, outcome.text, outcome.lacking
            if verdict is Verdict.MADE:
                loop = asyncio.get_running_loop()
                size = await loop.run_in_executor(self._threads, self._install, job.digest, level, outcome)
                self._counters.compiles[level.name].observe(time.monotonic() - began)
                log.info(
                    "compiled %.12s at %s: %.2f s, %d bytes, %d MiB of memory",
                    *(job.digest, level.name, time.monotonic() - began, size, outcome.memory >> 20),
                )
                return None
        except ValueError as error:
            verdict, text = Verdict.REFUSED, str(error)
        except OSError as error:
            verdict, text = Verdict.UNABLE, str(error)
        self._counters.compile_failures[verdict] += 1
        failure = Failure(verdict, text, limits, lacking=lacking)
        if not lacking:
            self._cache.fail(job.digest, level, failure)
        log.warning(
            "not compiled: %.12s at %s, after %.2f s: %s", job.digest, level.name, time.monotonic() - began, failure
        )
        return failure

    def _install(self, digest: str, level: Level, outcome: Outcome) -> int:
        try:
            return self._cache.install(digest, level, outcome.product, outcome.flags)
        finally:  # here, and not where it might be cancelled: the number would soon be another file's
            os.close(outcome.product)
