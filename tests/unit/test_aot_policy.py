"""Choice of what a start runs, and of what it waits for."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from supervisor.aot import digests, policy
from supervisor.aot.cache import Cache
from supervisor.aot.policy import Aot
from supervisor.aot.terms import EngineLibrary, Failure, Level, Limits, Mode, Settings, Verdict
from workers.start_request import WASMEDGE

LARGE = b"\0asm\1\0\0\0" + b"large" * 100_000
LIMITS = Limits(10, 1 << 30)
ENGINE = "0.14.1"


@pytest.fixture
def module(tmp_path: Path) -> int:
    path = tmp_path / "module.wasm"
    path.write_bytes(LARGE)
    return os.open(path, os.O_RDONLY)


def settings(tmp_path: Path, mode: Mode) -> Settings:
    """With a cache in which the module is known to compile at no level."""
    cache = Cache(tmp_path / "cache", 1 << 30, ENGINE)
    for level in Level:
        cache.fail(hashlib.sha256(LARGE).hexdigest(), level, Failure(Verdict.CRASHED, "", LIMITS))
    cache.close()
    return Settings(mode, tmp_path / "cache", 1 << 30, LIMITS)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.ALWAYS])
def test_auto_does_not_wait_for_a_slow_disk(
    tmp_path: Path, module: int, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = threading.Event()
    hash_ = digests._hash

    def slow(fd: int) -> str | None:
        readable.wait(20)
        return hash_(fd)

    monkeypatch.setattr(digests, "_hash", slow)
    monkeypatch.setattr(policy, "HASH_SECONDS", 0.05)

    async def check() -> None:
        aot = Aot(settings(tmp_path, mode))
        await aot.start(EngineLibrary(WASMEDGE, ENGINE))
        try:
            asyncio.get_running_loop().call_later(1, readable.set)
            before = time.monotonic()
            assert await aot.best(module, await aot.digest(module)) is None
            assert (time.monotonic() - before < 0.9) == (mode is Mode.AUTO)
        finally:
            readable.set()
            await aot.close()

    asyncio.run(check())


def test_until_it_is_started_and_with_never_it_does_nothing(tmp_path: Path, module: int) -> None:
    async def check() -> None:
        for mode, begin in ((Mode.NEVER, True), (Mode.AUTO, False)):
            aot = Aot(Settings(mode, tmp_path / "cache", 1 << 30, LIMITS))
            if begin:
                await aot.start(EngineLibrary(WASMEDGE, ENGINE))
            assert not aot.active
            aot.seen(module)
            assert await aot.best(module, await aot.digest(module)) is None
            await aot.close()

    asyncio.run(check())
    assert not (tmp_path / "cache").exists()


def test_another_engine_has_another_cache(tmp_path: Path, module: int) -> None:
    async def check() -> None:
        aot = Aot(settings(tmp_path, Mode.AUTO))
        for engine in (ENGINE, ENGINE, "0.14.2"):
            await aot.start(EngineLibrary(WASMEDGE, engine))
            assert aot.active
        await aot.close()
        assert not aot.active

    asyncio.run(check())
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "cache").glob("wasmedge-*"))
    assert names == ["wasmedge-0.14.1", "wasmedge-0.14.2"]
