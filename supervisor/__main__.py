"""``python -m supervisor`` is ``wasm-sandboxer``."""

from .cli import main

main(prog_name="wasm-sandboxer")
