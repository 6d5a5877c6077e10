"""Guests compiled to machine code by the index's wasmtime, for workers of a bare forkserver."""

from __future__ import annotations

import functools
import os
from importlib import metadata
from pathlib import Path

import wasmtime

EMPTY = '(module (func (export "_start")))'


@functools.cache
def compiled(module: bytes | str) -> bytes:
    """A module, or its text, as Wasmtime maps it."""
    return bytes(wasmtime.Module(wasmtime.Engine(), module).serialize())


def product(wasm: Path) -> Path:
    """A module's product in a file beside it, made when first asked for."""
    built = wasm.with_suffix(f".{metadata.version('wasmtime')}.cwasm")
    if not built.exists():
        part = wasm.with_suffix(f".{os.getpid()}.cwasm")
        part.write_bytes(compiled(wasm.read_bytes()))
        part.rename(built)
    return built
