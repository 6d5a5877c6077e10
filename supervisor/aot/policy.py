"""When to compile, when to wait, and what a start runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from workers.start_request import WASMEDGE

from ..host.counters import Counters
from ..seccomp.allowed import compiler_filter
from ..seccomp.library import SeccompMissing
from .cache import Cache, Unverified, flags
from .compiler_process import CompilerProcess
from .compiling import Compiling
from .digests import Digests
from .terms import BEST_FIRST, EngineLibrary, Failure, Level, Mode, Settings, Verdict

log = logging.getLogger(__name__)

HASH_SECONDS = 0.2
"""Seconds that a start waits for a module's digest: enough for a few hundred megabytes."""
_THREADS = 3


@dataclass(frozen=True, slots=True)
class Product:
    """A compiled module, opened."""

    fd: int
    digest: str
    """The module's."""
    level: Level
    engine: bytes = WASMEDGE
    component: bool = False
    imageable: bool = False
    """Loading the module runs none of its code, so that it may be mapped from an image of it loaded."""


@dataclass(frozen=True, slots=True)
class _Works:
    """Parts that belong to one version of the engine."""

    library: EngineLibrary
    cache: Cache
    compiling: Compiling


class Aot:
    """Ahead-of-time compilation as the daemon sees it. Until it is started, and with ``never``, it does nothing."""

    def __init__(
        self,
        settings: Settings,
        eager: bool = False,
        counters: Counters | None = None,
        levels: tuple[Level, ...] = tuple(Level),
        digests: Digests | None = None,
    ) -> None:
        """``eager`` leaves no processor time to others; ``levels`` are those the engine's compiler has.

        ``digests`` are another engine's, so that a module is read once for both.
        """
        self._levels = levels
        self._settings = settings
        self._eager = eager
        self._counters = counters or Counters()
        self._threads = ThreadPoolExecutor(_THREADS, "aot")
        self.digests = digests or Digests(self._threads)
        self._works: _Works | None = None
        self.pids: set[int] = set()
        """Pids of our children that compile."""
        self._seeing: set[asyncio.Task[None]] = set()

    async def start(self, library: EngineLibrary) -> None:
        """Begin with products for this engine; begin again if it is another version than before.

        Raises ``CacheUnusable``.
        """
        if self._settings.mode is Mode.NEVER or (self._works and self._works.library == library):
            return
        await self.stop()
        cache = Cache(self._settings.cache_dir, self._settings.cache_size, library.version, library.name.decode())
        compiler = CompilerProcess(library, self._settings.limits, cache.workshop, _filter(), self.pids)
        compiling = Compiling(cache, compiler, self._threads, self._eager, self._counters, self._levels)
        self._works = _Works(library, cache, compiling)

    @property
    def active(self) -> bool:
        """Whether it is worth opening a module before its start."""
        return self._works is not None

    def seen(self, module: int) -> None:
        """Compile this opened module, if it is one, when there is time. The descriptor stays the caller's."""
        if self._works is None:
            return
        digest = self.digests.known(module)
        if digest is not None:
            self._works.compiling.want(digest, module, os.fstat(module).st_size)
        else:
            task = asyncio.create_task(self._see(self._works, os.dup(module)))
            self._seeing.add(task)
            task.add_done_callback(self._seeing.discard)

    async def ready(self, module: int) -> Product | None:
        """The best product there can be of an opened module, if it is there. Raises ``OSError``."""
        works = self._works
        digest = await self.digests.of(module)
        if works is None or digest is None:
            return None
        found = await self._find(works, digest)
        if found is not None and found.level is not BEST_FIRST[0]:
            os.close(found.fd)
            return None
        return found

    def known(self, module: int) -> str | None:
        """The digest of an opened module that was read before."""
        return self.digests.known(module)

    async def digest(self, module: int, wait: bool = False) -> str | None:
        """The digest of an opened module, or None where it is none or takes long to read; ``wait`` does not mind."""
        return self.digests.known(module) or await self._digest_soon(module, wait)

    def failure(self, module: int, digest: str, level: Level) -> Failure | None:
        """Why there is no product of an opened module of this digest; None where there is, or nothing is known."""
        if self._works is None:
            return None
        return self._works.compiling.failure(digest, level, os.fstat(module).st_size)

    async def best(self, module: int, digest: str | None, wait: bool = False) -> Product | None:
        """The best product for this opened module of this digest; None where the module itself is the best.

        Its descriptor is the caller's, and so stays the module's. Raises ``OSError``.
        """
        return (await self.best_or_why(module, digest, wait))[0]

    async def best_or_why(
        self, module: int, digest: str | None, wait: bool = False
    ) -> tuple[Product | None, Failure | None]:
        """As ``best``, and, where that was waited for, why there is none."""
        works = self._works
        if works is None:
            return None, None
        found, failure = await self._best(works, module, digest, wait) if digest is not None else (None, None)
        if found is not None:
            self._counters.module_hits[found.level.name] += 1
        else:
            self._counters.module_misses += 1
        return found, failure

    async def _best(self, works: _Works, module: int, digest: str, wait: bool) -> tuple[Product | None, Failure | None]:
        found, failure = await self._find(works, digest), None
        if found is not None and found.level is BEST_FIRST[0]:
            return found, None
        wait = (wait or self._settings.mode is Mode.ALWAYS) and found is None
        job = works.compiling.want(digest, module, os.fstat(module).st_size, urgent=wait)
        if wait and job is not None and self._levels[0] in job.results:
            failure = await asyncio.shield(job.results[self._levels[0]])
            found = await self._find(works, digest)
        return found, failure

    def refuse(self, product: Product, why: str) -> None:
        """Never use this product again, nor make another: its module is not for this engine."""
        if self._works is not None:
            self._works.cache.fail(product.digest, product.level, Failure(Verdict.REFUSED, why, self._settings.limits))

    def condemn(self, product: Product, why: str, verdict: Verdict = Verdict.CRASHED) -> None:
        """Never use this product again: it does not load, though its module does."""
        if self._works is not None:
            digest, level = product.digest, product.level
            log.error("%.12s: what was compiled at %s does not load, and is removed: %s", digest, level.name, why)
            self._works.cache.remove(digest, level)
            self._works.cache.fail(digest, level, Failure(verdict, f"does not load: {why}", self._settings.limits))

    def discard(self, product: Product, why: str) -> None:
        """Have this product made again: it does not load."""
        if self._works is not None:
            log.warning("%.12s: does not load, and is compiled again: %s", product.digest, why)
            self._works.cache.remove(product.digest, product.level)

    async def compile(self, module: int) -> AsyncIterator[tuple[Level, Failure | None]]:
        """Compile an opened module at every level: as each is done, it and why there is no product, if there is none.

        Raises ``ValueError`` where it is no module that can be compiled, and ``OSError``.
        """
        assert self._works is not None
        digest = await self.digests.of(module)
        if digest is None:
            raise ValueError("not a WebAssembly module")
        job = self._works.compiling.want(digest, module, os.fstat(module).st_size, urgent=True)
        for level in self._levels:
            if job is not None and level in job.results:
                yield level, await asyncio.shield(job.results[level])
            else:
                yield level, self._works.compiling.failure(digest, level, os.fstat(module).st_size)

    async def close(self) -> None:
        """End what compiles."""
        for task in list(self._seeing):
            task.cancel()
        await self.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stop(self) -> None:
        """End what compiles, and have no engine until the next start."""
        works, self._works = self._works, None
        if works is not None:
            await works.compiling.close()
            works.cache.close()

    async def _see(self, works: _Works, module: int) -> None:
        try:
            digest = await self.digests.of(module)
            if digest is not None:
                works.compiling.want(digest, module, os.fstat(module).st_size)
        except OSError as error:
            log.debug("reading a module: %s", error)
        finally:
            os.close(module)

    async def _digest_soon(self, module: int, wait: bool) -> str | None:
        """The digest, unless a start would have to wait for it where it must not: others' large files may be before."""
        try:
            async with asyncio.timeout(HASH_SECONDS if self._settings.mode is Mode.AUTO and not wait else None):
                return await self.digests.of(module)
        except TimeoutError:
            return None

    async def _find(self, works: _Works, digest: str) -> Product | None:
        for level in BEST_FIRST:
            try:
                fd = works.cache.open(digest, level)
            except Unverified:
                loop = asyncio.get_running_loop()
                fd = await loop.run_in_executor(self._threads, works.cache.verify, digest, level)
            if fd is not None:
                starts, component = flags(fd)
                return Product(fd, digest, level, works.library.name, component, not starts)
        return None


def _filter() -> bytes:
    try:
        return compiler_filter()
    except (SeccompMissing, OSError) as error:
        log.warning("the compiler runs without a system call filter: %s", error)
        return b""
