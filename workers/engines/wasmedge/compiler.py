"""WasmEdge's compiler: a module becomes a shared object, by LLVM."""

from __future__ import annotations

from ...compile_protocol import MADE, REFUSED, STARTS, UNABLE
from .. import compiler, sections
from . import capi_compiler

NATIVE_SECTION = b"wasmedge"
"""Custom section in which WasmEdge's "universal" modules carry native code."""


class Compiler(compiler.Compiler):
    """libwasmedge with libLLVM. Raises ``OSError`` and ``AttributeError`` where it does not load."""

    def __init__(self) -> None:
        self._lib = capi_compiler.load()
        self.version = self._lib.WasmEdge_VersionGet()

    def compile(self, code: bytes, level: int, output: bytes) -> bytes:
        """Compile at a ``WasmEdge_CompilerOptimizationLevel``: 0 is O0, 2 is O2."""
        if code[: len(sections.MODULE)] != sections.MODULE:
            return REFUSED + b"not a WebAssembly module"
        code = sections.without_custom(code, NATIVE_SECTION)
        lib = self._lib
        lib.WasmEdge_LogOff()
        conf = lib.WasmEdge_ConfigureCreate()
        lib.WasmEdge_ConfigureSetForceInterpreter(conf, True)  # load no native code
        lib.WasmEdge_ConfigureCompilerSetOptimizationLevel(conf, level)
        lib.WasmEdge_ConfigureCompilerSetOutputFormat(conf, capi_compiler.SHARED_OBJECT)
        compiler_ = lib.WasmEdge_CompilerCreate(conf)
        result = lib.WasmEdge_CompilerCompileFromBuffer(compiler_, code, len(code), output)
        if lib.WasmEdge_ResultOK(result):
            return MADE + bytes([STARTS if sections.has_start(code) else 0])
        message: bytes = lib.WasmEdge_ResultGetMessage(result)
        # "AOT runtime is disabled in this build" is not about the module.
        return (UNABLE if b"disabled" in message else REFUSED) + message[: compiler.MOST_TEXT]
