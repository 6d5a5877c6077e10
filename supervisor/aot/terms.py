"""The words of ahead-of-time compilation: levels, limits, and how a compile ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path

from sandbox_api.errors import InvalidArgument

UNABLE_SECONDS = 60
"""After so long it is tried again."""
LARGE = 8 << 20
"""Bytes of a module above which its limits grow in proportion."""
_NOTABLY_MORE = 1.5
"""Free memory varies: only this much more of it is a reason to try again."""


class Level(IntEnum):
    """``WasmEdge_CompilerOptimizationLevel``. O1 is not among them: at it the compiler crashes on many modules.

    O3 takes as long as O2, and what it makes is no faster (docs/performance.md).
    """

    O0 = 0
    O2 = 2


BEST_FIRST = (Level.O2, Level.O0)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one compile of a module of up to ``LARGE`` bytes; larger ones have more."""

    seconds: float
    """Seconds of processor time: a busy machine makes no compile fail."""
    memory: int
    """Bytes, beside the compiler itself."""

    def grown(self, size: int, free: int) -> Limits:
        """The limits for a module of ``size`` bytes, on a machine with ``free`` bytes of memory: never less."""
        factor = max(1, size / LARGE)
        return Limits(self.seconds * factor, max(self.memory, min(int(self.memory * factor), free // 2)))


@dataclass(frozen=True, slots=True)
class EngineLibrary:
    """An engine as its compiler is found."""

    name: bytes
    """One of ``workers.start_request``."""
    version: str
    """The engine's version, as the forkserver reports it."""
    path: str = ""
    """The library's, where it is not found by itself."""


ENGINE_ANNOTATION = "run.wasm-sandboxer/engine"
"""A container's own choice of an ``EngineMode``."""


INITIALIZE_ANNOTATION = "run.wasm-sandboxer/initialize"
"""A container's export that is called once before its function, so that its image can be taken after it."""
_LONGEST_EXPORT = 256


def export_to_initialize(annotations: Mapping[str, str]) -> bytes:
    """The name of that export; empty where there is none. Raises ``InvalidArgument``."""
    name = annotations.get(INITIALIZE_ANNOTATION, "").encode()
    if len(name) > _LONGEST_EXPORT:
        raise InvalidArgument(f"annotation {INITIALIZE_ANNOTATION}: a name of {len(name)} bytes is too long")
    return name


class EngineMode(StrEnum):
    """The engine asked for."""

    AUTO = "auto"
    """WasmEdge; Wasmtime for components and for modules that WasmEdge refuses or cannot compile."""
    WASMEDGE = "wasmedge"
    WASMTIME = "wasmtime"


class Mode(StrEnum):
    """Use of compiled modules by starts."""

    AUTO = "auto"
    """Run the best that is there, and never wait."""
    ALWAYS = "always"
    """Wait for the first level."""
    NEVER = "never"
    """Nothing is compiled, and nothing compiled is run."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line's options for compilation."""

    mode: Mode
    cache_dir: Path
    cache_size: int
    """Bytes that products may take."""
    limits: Limits


class Verdict(StrEnum):
    """Ends of a compile."""

    MADE = "made"
    REFUSED = "refused"
    """The compiler does not want the module."""
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    NO_MEMORY = "out of memory"
    UNABLE = "unable"
    """For no fault of the module's. It is tried again later, and not recorded."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no product."""

    verdict: Verdict
    text: str
    limits: Limits
    """The limits of that compile. A failure for lack of time or memory does not count where more is allowed."""
    at: float = field(default_factory=time.monotonic)
    lacking: int = 0
    """An errno, where the node lacked something for the compiler. That counts for no other start."""

    def counts(self, limits: Limits) -> bool:
        """Whether it would end the same way with these limits."""
        if self.verdict is Verdict.TIMED_OUT:
            return self.limits.seconds >= limits.seconds
        if self.verdict is Verdict.NO_MEMORY:
            return self.limits.memory * _NOTABLY_MORE > limits.memory
        if self.verdict is Verdict.UNABLE:
            return time.monotonic() - self.at < UNABLE_SECONDS
        return True

    def __str__(self) -> str:
        return f"{self.verdict}: {self.text}" if self.text else str(self.verdict)
