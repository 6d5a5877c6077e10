"""The engines that run modules, each in a folder of its own."""

from __future__ import annotations

from .engine import Engine
from .wasmedge.engine import WasmEdge
from .wasmtime.engine import Wasmtime


def load() -> dict[bytes, Engine]:
    """The engines by their names, primed but for those that are ``apart``. The first runs what names no engine.

    Raises ``EngineMissing`` where the first is; the others may be.
    """
    engines: list[Engine] = [WasmEdge(), *Wasmtime.installed()]
    for engine in engines:
        if not engine.apart:
            engine.prime()
    return {engine.name: engine for engine in engines}
