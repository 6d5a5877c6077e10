"""The guest programs of ``tests/guests``, compiled to WASI when first asked for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "guests"
CACHE = SOURCES.parent.parent / ".cache" / "guests"

# What a guest needs beside the usual: reactors have no _start.
_FLAGS = {"reactor": ["-mexec-model=reactor"]}


def guest(name: str) -> Path:
    """The path of ``<name>.wasm``, built from ``tests/guests/<name>.c`` if that, or a header of its, has changed."""
    source = SOURCES / f"{name}.c"
    flags = ["-target", "wasm32-wasi", "-O2", "-s", *_FLAGS.get(name, [])]
    text = source.read_bytes()
    headers = [path.read_bytes() for path in sorted(SOURCES.glob("*.h")) if path.name.encode() in text]
    digest = hashlib.sha256(b"".join((repr(flags).encode(), text, *headers))).hexdigest()[:16]
    built = CACHE / digest / f"{name}.wasm"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}")
        command = [sys.executable, "-m", "ziglang", "cc", *flags, "-o", str(part), str(source)]
        environment = {
            **os.environ,
            "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"),
            "ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig"),
        }
        subprocess.run(command, check=True, env=environment)
        part.rename(built)
    return built
