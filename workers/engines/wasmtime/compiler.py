"""Wasmtime's compiler: a module or component becomes an ELF file of its own kind, by Cranelift."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_size_t, c_void_p

from ...compile_protocol import COMPONENT, MADE, NO_MEMORY, REFUSED, STARTS
from .. import compiler, sections
from . import capi
from .engine import cause_first, configure

_OS_ERROR = "(os error 12)"
"""ENOMEM, as Rust's libraries write it."""
_NEW, _SERIALIZE = (c_void_p, c_char_p, c_size_t, c_void_p), (c_void_p, c_void_p)
_FUNCTIONS = {
    "wasmtime_module_new": (c_void_p, _NEW),
    "wasmtime_module_serialize": (c_void_p, _SERIALIZE),
    "wasmtime_component_new": (c_void_p, _NEW),
    "wasmtime_component_serialize": (c_void_p, _SERIALIZE),
}


class Compiler(compiler.Compiler):
    """libwasmtime. Raises ``OSError`` and ``AttributeError`` where it does not load."""

    def __init__(self, path: str, version: bytes) -> None:
        """The C API does not tell its version: ``version`` is the package's that ``path`` came with."""
        self._lib = capi.load(path, _FUNCTIONS)
        self.version = version

    def compile(self, code: bytes, level: int, output: bytes) -> bytes:
        """Compile; there is one level."""
        lib = self._lib
        component = code[: len(sections.COMPONENT)] == sections.COMPONENT
        kind = "component" if component else "module"
        config = lib.wasm_config_new()
        configure(lib, config)
        engine, made, product = lib.wasm_engine_new_with_config(config), c_void_p(), capi.Vector()
        error = getattr(lib, f"wasmtime_{kind}_new")(engine, code, len(code), byref(made))
        error = error or getattr(lib, f"wasmtime_{kind}_serialize")(made, byref(product))
        if error:
            text = capi.Vector()
            lib.wasmtime_error_message(error, byref(text))
            line = " ".join(cause_first(capi.text(text)).split())
            return (NO_MEMORY if _OS_ERROR in line else REFUSED) + line.encode()[: compiler.MOST_TEXT]
        with open(output, "wb") as file:
            file.write((ctypes.c_char * product.size).from_address(product.data))
        starts = not component and sections.has_start(code)
        return MADE + bytes([COMPONENT * component | STARTS * starts])
