"""The engines that run modules, each in a folder of its own."""

from __future__ import annotations

from .engine import Engine
from .wasmedge.engine import WasmEdge

ENGINES: tuple[type[Engine], ...] = (WasmEdge,)
"""The first runs what names no engine."""


def load() -> dict[bytes, Engine]:
    """Load and prime the engines, by their names. Raises ``EngineMissing``."""
    engines = [engine() for engine in ENGINES]
    for engine in engines:
        engine.prime()
    return {engine.name: engine for engine in engines}
