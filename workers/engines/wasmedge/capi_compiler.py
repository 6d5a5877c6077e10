"""Raw declarations of WasmEdge's compiler, apart from the rest: the forkserver, which never compiles, has none of it.

Names and enumerations are those of WasmEdge 0.14 (wasmedge.h, enum_configure.h).
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_uint64, c_void_p

from . import capi

SHARED_OBJECT = 0  # WasmEdge_CompilerOutputFormat_Native; 1 is a "universal" module

_FUNCTIONS = {
    "ConfigureCompilerSetOptimizationLevel": (None, (c_void_p, c_int)),
    "ConfigureCompilerSetOutputFormat": (None, (c_void_p, c_int)),
    "CompilerCreate": (c_void_p, (c_void_p,)),
    "CompilerCompileFromBuffer": (capi.Result, (c_void_p, c_char_p, c_uint64, c_char_p)),
}


def load() -> ctypes.PyDLL:
    """The library with the functions of ``capi`` and those above declared. Raises as ``capi.load``."""
    library = capi.load()
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, f"WasmEdge_{name}")
        function.restype = result
        function.argtypes = arguments
    return library
