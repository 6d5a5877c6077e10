"""WasmEdge 0.14 through its C API."""
