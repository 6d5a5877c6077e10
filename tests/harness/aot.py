"""Guests compiled to machine code by libwasmedge, in a process of its own: it writes to stdout, and may crash."""

from __future__ import annotations

import os
from pathlib import Path

from . import interpreters

_COMPILE = """
import ctypes
from workers.engines.wasmedge import capi
lib = ctypes.CDLL(capi.LIBRARY)
for name in ("ConfigureCreate", "CompilerCreate"):
    getattr(lib, f"WasmEdge_{name}").restype = ctypes.c_void_p
config = ctypes.c_void_p(lib.WasmEdge_ConfigureCreate())
lib.WasmEdge_ConfigureCompilerSetOutputFormat(config, 0)  # native
lib.WasmEdge_ConfigureCompilerSetOptimizationLevel(config, 0)
compiler = ctypes.c_void_p(lib.WasmEdge_CompilerCreate(config))
sys.exit(lib.WasmEdge_CompilerCompile(compiler, *map(str.encode, sys.argv[1:])) & 0xFF)
"""


def product(wasm: Path) -> Path:
    """A module as a shared object beside it, made when first asked for."""
    built = wasm.with_suffix(".so")
    if not built.exists():
        part = wasm.with_suffix(f".{os.getpid()}.so")
        interpreters.output(_COMPILE, str(wasm), str(part))
        part.rename(built)
    return built
