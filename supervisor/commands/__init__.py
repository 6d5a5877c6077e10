"""The subcommands of ``wasm-sandboxer``."""
