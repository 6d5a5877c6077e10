"""Wasmtime through its C API: core modules and components, compiled by Cranelift."""
