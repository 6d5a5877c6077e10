"""Raw declarations of the part of WasmEdge's C API (0.14) that is used. Only ``engine.py`` touches them.

``PyDLL`` keeps the interpreter lock during calls: a worker has one thread, and giving the lock away and
taking it back would touch memory that the fork shares.
"""

from __future__ import annotations

import ctypes
import posix
from ctypes import POINTER, c_bool, c_char_p, c_int32, c_ubyte, c_uint32, c_void_p

LIBRARY = posix.environ.get(b"WASM_SANDBOXER_LIBWASMEDGE", b"libwasmedge.so.0").decode()
"""Found by the dynamic linker, unless a path is given (supervisor/host/interpreters.py)."""


class String(ctypes.Structure):
    """``WasmEdge_String``, passed by value. ``Buf`` is a pointer: the bytes need not end in zero."""

    _fields_ = (("Length", c_uint32), ("Buf", c_void_p))


def text(string: String) -> str:
    """The text of a ``String`` of the library's."""
    return ctypes.string_at(string.Buf, string.Length).decode(errors="replace")


class Result(ctypes.Structure):
    """``WasmEdge_Result``, passed by value."""

    _fields_ = (("Code", c_uint32),)


class Limit(ctypes.Structure):
    """``WasmEdge_Limit``, in pages."""

    _fields_ = (("HasMax", c_bool), ("Shared", c_bool), ("Min", c_uint32), ("Max", c_uint32))


class Value(ctypes.Structure):
    """``WasmEdge_Value``: 16 bytes, which are aligned so, and 8 of a type."""

    _fields_ = (("bytes", c_ubyte * 32),)


_STRINGS = POINTER(c_char_p)

# name: (result, arguments); None is void
FUNCTIONS = {
    "VersionGet": (c_char_p, ()),
    "LogOff": (None, ()),
    "ResultOK": (c_bool, (Result,)),
    "ResultGetMessage": (c_char_p, (Result,)),
    "ConfigureCreate": (c_void_p, ()),
    "ConfigureSetForceInterpreter": (None, (c_void_p, c_bool)),
    "ConfigureSetMaxMemoryPage": (None, (c_void_p, c_uint32)),
    "LoaderCreate": (c_void_p, (c_void_p,)),
    "LoaderParseFromFile": (Result, (c_void_p, POINTER(c_void_p), c_char_p)),
    "LoaderParseFromBuffer": (Result, (c_void_p, POINTER(c_void_p), c_void_p, c_uint32)),
    "ValidatorCreate": (c_void_p, (c_void_p,)),
    "ValidatorValidate": (Result, (c_void_p, c_void_p)),
    "ExecutorCreate": (c_void_p, (c_void_p, c_void_p)),
    "ExecutorRegisterImport": (Result, (c_void_p, c_void_p, c_void_p)),
    "ExecutorInstantiate": (Result, (c_void_p, POINTER(c_void_p), c_void_p, c_void_p)),
    "ExecutorInvoke": (Result, (c_void_p, c_void_p, c_void_p, c_uint32, c_void_p, c_uint32)),
    "StoreCreate": (c_void_p, ()),
    "ValueGenI32": (Value, (c_int32,)),
    "ModuleInstanceCreateWASI": (
        c_void_p,
        (_STRINGS, c_uint32, _STRINGS, c_uint32, _STRINGS, c_uint32),
    ),
    "ModuleInstanceInitWASI": (
        None,
        (c_void_p, _STRINGS, c_uint32, _STRINGS, c_uint32, _STRINGS, c_uint32),
    ),
    "ModuleInstanceWASIGetExitCode": (c_uint32, (c_void_p,)),
    "ModuleInstanceFindFunction": (c_void_p, (c_void_p, String)),
    "FunctionInstanceGetFunctionType": (c_void_p, (c_void_p,)),
    "FunctionTypeGetParametersLength": (c_uint32, (c_void_p,)),
    "ASTModuleDelete": (None, (c_void_p,)),
    "ASTModuleListImportsLength": (c_uint32, (c_void_p,)),
    "ASTModuleListImports": (c_uint32, (c_void_p, POINTER(c_void_p), c_uint32)),
    "ASTModuleListExportsLength": (c_uint32, (c_void_p,)),
    "ASTModuleListExports": (c_uint32, (c_void_p, POINTER(c_void_p), c_uint32)),
    "ExportTypeGetMemoryType": (c_void_p, (c_void_p, c_void_p)),
    "MemoryTypeGetLimit": (Limit, (c_void_p,)),
    "ConfigureGetMaxMemoryPage": (c_uint32, (c_void_p,)),
    "ImportTypeGetModuleName": (String, (c_void_p,)),
    "ImportTypeGetExternalName": (String, (c_void_p,)),
}


def load() -> ctypes.PyDLL:
    """The library with every function above declared.

    Raises ``OSError`` where it cannot be loaded and ``AttributeError`` where it lacks a function.
    """
    library = ctypes.PyDLL(LIBRARY)
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, f"WasmEdge_{name}")
        function.restype = result
        function.argtypes = arguments
    return library
