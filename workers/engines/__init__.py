"""The engines that run modules, each in a folder of its own."""

from __future__ import annotations

from .engine import Engine
from .wasmedge.engine import WasmEdge
from .wasmtime.engine import Wasmtime

ENGINES: tuple[type[Engine], ...] = (WasmEdge, Wasmtime)
"""The first runs what names no engine."""


def load() -> dict[bytes, Engine]:
    """The engines that are installed, by their names, primed but for those that are ``apart``.

    Raises ``EngineMissing`` where the first is.
    """
    engines = [engine for each in ENGINES for engine in each.installed()]
    for engine in engines:
        if not engine.apart:
            engine.prime()
    return {engine.name: engine for engine in engines}
