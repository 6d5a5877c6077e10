"""Choice of a start's engine: what is known of a module decides, and finding it out costs one look at its bytes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from supervisor.aot import digests
from supervisor.aot.cache import Cache
from supervisor.aot.choice import Choice, EngineChoice
from supervisor.aot.policy import Aot
from supervisor.aot.terms import EngineLibrary, EngineMode, Failure, Level, Limits, Mode, Settings, Verdict
from workers.start_request import WASMEDGE, WASMTIME

MODULE = b"\0asm\1\0\0\0" + b"module" * 20_000
DIGEST = hashlib.sha256(MODULE).hexdigest()
LIMITS = Limits(10, 1 << 30)
SHORT = Failure(Verdict.NO_MEMORY, "it needs more", LIMITS)
REFUSED = Failure(Verdict.REFUSED, "malformed value type", LIMITS)
CRASHED = Failure(Verdict.CRASHED, "", LIMITS)


def chosen(folder: Path, asked: EngineMode, *failures: Failure) -> Choice:
    """What is chosen for a module that was just written, where WasmEdge's compiler and Wasmtime's have failed so."""

    async def choose() -> Choice:
        settings = Settings(Mode.AUTO, folder / "cache", 1 << 30, LIMITS)
        wasmedge = Aot(settings)
        wasmtime = Aot(settings, levels=(Level.O2,), digests=wasmedge.digests)
        for engine, failure in zip((WASMEDGE, WASMTIME), failures, strict=False):
            cache = Cache(folder / "cache", 1 << 30, "1", engine.decode())
            for level in Level:
                cache.fail(DIGEST, level, failure)
            cache.close()
        await wasmedge.start(EngineLibrary(WASMEDGE, "1"))
        await wasmtime.start(EngineLibrary(WASMTIME, "1", "/nowhere"))
        choice = EngineChoice(wasmedge, wasmtime)
        (folder / "module.wasm").write_bytes(MODULE)
        module = os.open(folder / "module.wasm", os.O_RDONLY)
        try:
            return await choice.choose(module, asked)
        finally:
            os.close(module)
            await choice.close()

    return asyncio.run(choose())


@pytest.mark.parametrize("first", [SHORT, REFUSED])
def test_a_file_that_was_just_written_is_read_once(
    tmp_path: Path, first: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_, hashed = digests._hash, []
    monkeypatch.setattr(digests, "_hash", lambda fd: hashed.append(fd) or hash_(fd))
    choice = chosen(tmp_path, EngineMode.AUTO, first, CRASHED)
    assert (choice.product, choice.digest) == (None, DIGEST)
    assert len(hashed) == 1


@pytest.mark.parametrize(
    ("asked", "failures", "why"),
    [
        (EngineMode.AUTO, (SHORT, CRASHED), "WasmEdge: out of memory: it needs more; Wasmtime: crashed"),
        (EngineMode.AUTO, (REFUSED, CRASHED), "WasmEdge: refused: malformed value type; Wasmtime: crashed"),
        (EngineMode.WASMEDGE, (SHORT, CRASHED), "WasmEdge: out of memory: it needs more"),
    ],
)
def test_what_nothing_compiles_says_why(
    tmp_path: Path, asked: EngineMode, failures: tuple[Failure, ...], why: str
) -> None:
    assert chosen(tmp_path, asked, *failures).why == why
