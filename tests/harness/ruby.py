"""Ruby of the npm registry, linked with stand-ins for its JavaScript host: a module of 16 MB that says its version.

What Ruby asks of its host, every stand-in answers with a trap. Binaryen's wasm-merge links them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from wasmtime import wat2wasm

from workers.engines.sections import sections

from . import npm
from .guests import CACHE

PACKAGES = ("@ruby/3.4-wasm-wasi@2.10.1", "binaryen@130.0.0")
SAYS_VERSION = "ruby-show-version: func() -> ()"
"""The function of Ruby's that needs nothing of its host."""
_TYPES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64"}
_WASI = "wasi_snapshot_preview1"


def ruby() -> Path:
    """The module, made when first asked for."""
    folder = CACHE / hashlib.sha256(repr(PACKAGES).encode()).hexdigest()[:16]
    built = folder / "ruby.wasm"
    if not built.exists():
        packages = npm.install(folder / str(os.getpid()), *PACKAGES)
        module = packages / "@ruby" / "3.4-wasm-wasi" / "dist" / "ruby.wasm"
        linked = packages.parent / "linked.wasm"
        command: list[str | Path] = [packages / ".bin" / "wasm-merge", "-all", "-o", linked, module, "main"]
        for host, text in _stand_ins(module.read_bytes()).items():
            path = packages.parent / f"{host}.wasm"
            path.write_bytes(wat2wasm(text))
            command += [path, host]
        subprocess.run(command, check=True, capture_output=True)
        linked.rename(built)
        shutil.rmtree(packages.parent)
    return built


def _stand_ins(code: bytes) -> dict[str, str]:
    """For each host but WASI, the text of a module with all that is imported from it. Functions alone are imported."""
    found = {kind: code[begin:end] for kind, _, begin, end in sections(code)}
    types, imports = _Bytes(found[1]), _Bytes(found[2])
    signatures = [_signature(types) for _ in range(types.number())]
    functions: dict[str, list[str]] = {}
    for _ in range(imports.number()):
        host, name, kind = imports.take().decode(), imports.take().decode(), imports.number()
        assert kind == 0, f"{host} {name} is no function"
        function = f'(func (export "{name}") {signatures[imports.number()]} unreachable)'
        functions.setdefault(host, []).append(function)
    return {host: f"(module {' '.join(each)})" for host, each in functions.items() if host != _WASI}


def _signature(types: _Bytes) -> str:
    assert types.number() == 0x60
    return " ".join(f"({what} {_TYPES[each]})" for what in ("param", "result") for each in types.take())


class _Bytes:
    """Reads numbers and vectors of bytes (WebAssembly, "Binary Format")."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def take(self) -> bytes:
        length = self.number()
        self._at += length
        return self._data[self._at - length : self._at]
