"""Components that jco makes, from npm: modules with the adapter for WASI's preview 1, and a program in JavaScript.

``jco new`` is wasm-tools' ``component new``. The adapter that comes with it is Wasmtime's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from . import npm
from .guests import CACHE, SOURCES, guest

PACKAGE = "@bytecodealliance/jco@1.35.0"
WASI = "0.2.12"
ADAPTED = ("args", "cat", "exit", "files", "memory", "sleep", "trap")
_PROGRAM = SOURCES / "components" / "javascript"
_SCRIPT = "script.wasm"


def adapted(name: str) -> Path:
    """A guest of ``ADAPTED`` as a component."""
    return _made() / f"{name}.wasm"


def script() -> Path:
    """``tests/guests/components/javascript``, QuickJS and all, as a component of 1.7 MB."""
    return _made() / _SCRIPT


def _made() -> Path:
    """The folder of all of them: jco is too large to be kept."""
    modules = {name: guest(name) for name in ADAPTED}
    sources = [*modules.values(), *sorted(_PROGRAM.iterdir())]
    digest = hashlib.sha256(repr((PACKAGE, WASI)).encode() + b"".join(source.read_bytes() for source in sources))
    folder = CACHE / digest.hexdigest()[:16]
    if not folder.exists():
        part = folder.with_suffix(f".{os.getpid()}")
        packages = npm.install(part / "packages", PACKAGE)
        jco = packages / ".bin" / "jco"
        for name, module in modules.items():
            _run(jco, "new", "--wasi-command", module, "-o", part / f"{name}.wasm")
        wit = part / "wit"
        shutil.copytree(_PROGRAM, wit, ignore=shutil.ignore_patterns("*.js"))
        interfaces = packages / "@bytecodealliance" / "jco" / "lib" / "wit" / "builtin" / WASI
        shutil.copytree(interfaces, wit / "deps")
        world = ("--wit", wit, "--world-name", "script", "--backend", "qjs")
        _run(jco, "componentize", _PROGRAM / "script.js", *world, "-o", part / _SCRIPT)
        for scaffold in (wit, part / "packages"):
            shutil.rmtree(scaffold)
        part.rename(folder)
    return folder


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
