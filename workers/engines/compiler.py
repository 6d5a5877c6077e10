"""The interface of an engine's compiler, in the compiler's process (``workers/compiler.py``)."""

from __future__ import annotations

import errno

from ..start_request import WASMEDGE, WASMTIME

MOST_TEXT = 2000  # bytes of an explanation


class Compiler:
    """A library that turns modules into machine code. Loaded while there are files to load it from."""

    version = b""

    def compile(self, code: bytes, level: int, output: bytes) -> bytes:
        """Compile a module, or a component, into the file ``output``.

        Answers with a verdict of ``compile_protocol`` and its text; after MADE that is a byte of traits.
        """
        raise NotImplementedError


def load(engine: bytes, library: bytes, version: bytes) -> Compiler:
    """The compiler of an engine; ``library`` is its path where it has to be told.

    Raises ``OSError`` and ``AttributeError`` where it does not load.
    """
    from .wasmedge import compiler as wasmedge
    from .wasmtime import compiler as wasmtime

    if engine == WASMTIME:
        return wasmtime.Compiler(library.decode(), version)
    if engine != WASMEDGE:
        raise OSError(errno.ENOENT, f"no compiler for engine {engine.decode(errors='replace')}")
    return wasmedge.Compiler()
