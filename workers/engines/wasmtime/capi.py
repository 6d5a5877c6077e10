"""Raw declarations of the part of Wasmtime's C API that is used. Only ``engine`` touches them.

Names and structures are those of Wasmtime's headers (wasm.h, wasi.h, wasmtime/*.h). ``PyDLL`` keeps the interpreter
lock during calls, as for WasmEdge.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int64, c_size_t, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FUNCTION = 0
"""``WASMTIME_EXTERN_FUNC``, the first byte of a ``wasmtime_extern_t``; its union begins at byte 8."""
EXTERN_BYTES, UNION_OFFSET = 32, 8
INSTANCE_BYTES = 32
"""Room for a ``wasmtime_instance_t``, a ``wasmtime_func_t`` or their twins of components."""
VALUE_BYTES = 32
"""Room for a ``wasmtime_component_val_t``: its kind, and at ``UNION_OFFSET``, for a result, whether it is ok."""


class Vector(ctypes.Structure):
    """``wasm_byte_vec_t``."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


_P, _S, _N, _B, _I = c_void_p, c_char_p, c_size_t, c_bool, c_int64

# name: (result, arguments); None is void
FUNCTIONS = {
    "wasm_config_new": (_P, ()),
    "wasm_engine_new_with_config": (_P, (_P,)),
    "wasmtime_config_parallel_compilation_set": (None, (_P, _B)),
    "wasmtime_linker_new": (_P, (_P,)),
    "wasmtime_linker_define_wasi": (_P, (_P,)),
    "wasmtime_linker_allow_shadowing": (None, (_P, _B)),
    "wasmtime_linker_define_func_unchecked": (_P, (_P, _S, _N, _S, _N, _P, _P, _P, _P)),
    "wasm_functype_new": (_P, (_P, _P)),
    "wasm_valtype_vec_new": (None, (_P, _N, _P)),
    "wasm_valtype_new": (_P, (ctypes.c_uint8,)),
    "wasmtime_linker_instantiate": (_P, (_P, _P, _P, _P, _P)),
    "wasmtime_module_deserialize_file": (_P, (_P, _S, _P)),
    "wasmtime_store_new": (_P, (_P, _P, _P)),
    "wasmtime_store_context": (_P, (_P,)),
    "wasmtime_store_limiter": (None, (_P, _I, _I, _I, _I, _I)),
    "wasmtime_context_set_wasi": (_P, (_P, _P)),
    "wasmtime_instance_export_get": (_B, (_P, _P, _S, _N, _P)),
    "wasmtime_func_type": (_P, (_P, _P)),
    "wasmtime_func_call_unchecked": (_P, (_P, _P, _P, _N, _P)),
    "wasmtime_error_message": (None, (_P, _P)),
    "wasmtime_error_exit_status": (_B, (_P, _P)),
    "wasm_functype_params": (_P, (_P,)),
    "wasm_trap_message": (None, (_P, _P)),
    "wasi_config_new": (_P, ()),
    "wasi_config_delete": (None, (_P,)),
    "wasi_config_set_argv": (_B, (_P, _N, _P)),
    "wasi_config_inherit_env": (None, (_P,)),
    "wasi_config_inherit_stdin": (None, (_P,)),
    "wasi_config_inherit_stdout": (None, (_P,)),
    "wasi_config_inherit_stderr": (None, (_P,)),
    "wasi_config_inherit_network": (None, (_P,)),
    "wasi_config_allow_ip_name_lookup": (None, (_P, _B)),
    "wasi_config_preopen_dir": (_B, (_P, _S, _S, _B)),
    "wasmtime_component_deserialize_file": (_P, (_P, _S, _P)),
    "wasmtime_component_linker_new": (_P, (_P,)),
    "wasmtime_component_linker_add_wasip2": (_P, (_P,)),
    "wasmtime_component_linker_add_wasi_http": (_P, (_P,)),
    "wasmtime_component_linker_instantiate": (_P, (_P, _P, _P, _P)),
    "wasmtime_component_get_export_index": (_P, (_P, _P, _S, _N)),
    "wasmtime_component_instance_get_func": (_B, (_P, _P, _P, _P)),
    "wasmtime_component_func_call": (_P, (_P, _P, _P, _N, _P, _N)),
    "wasmtime_context_set_wasi_http": (None, (_P,)),
}


def load(path: str, more: Mapping[str, tuple[Any, tuple[Any, ...]]] | None = None) -> ctypes.PyDLL:
    """The library with every function above, and ``more`` of them, declared.

    Raises ``OSError`` where it cannot be loaded and ``AttributeError`` where it lacks a function.
    """
    library = ctypes.PyDLL(path)
    for name, (result, arguments) in {**FUNCTIONS, **(more or {})}.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def text(vector: Vector) -> str:
    """The text in a byte vector of the library's, which may end in a zero."""
    return ctypes.string_at(vector.data, vector.size).rstrip(b"\0").decode(errors="replace")
