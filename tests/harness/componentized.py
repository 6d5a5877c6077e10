"""A component of a program in Python, CPython and all, made by the index's componentize-py when first asked for.

What WASI's interfaces look like (WIT) comes from a package that has them, spin-sdk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from .guests import CACHE, SOURCES

PACKAGES = ("componentize-py==0.25.1", "spin-sdk==5.0.0")
WASI = "0.2.6"
_PROGRAM = SOURCES / "components" / "program"


def program() -> Path:
    """``tests/guests/components/program`` as a component of 18 MB."""
    digest = hashlib.sha256(repr((PACKAGES, WASI)).encode())
    for source in ("program.py", "program.wit"):
        digest.update((_PROGRAM / source).read_bytes())
    folder = CACHE / digest.hexdigest()[:16]
    built = folder / "program.wasm"
    if not built.exists():
        packages, part = folder / "packages", folder / f"{os.getpid()}.wasm"
        _fetch(packages)
        wit = folder / "wit"
        wit.mkdir(exist_ok=True)
        shutil.copy(_PROGRAM / "program.wit", wit)
        for name in ("cli", "clocks", "filesystem", "http", "io", "random", "sockets"):
            interfaces = packages / "spin_sdk" / "wit" / "deps" / f"{name}@{WASI}"
            shutil.copytree(interfaces, wit / "deps" / name, dirs_exist_ok=True)
        script = f"import sys; sys.path.insert(0, {str(packages)!r}); from componentize_py import script; script()"
        command = [sys.executable, "-c", script, "-d", str(wit), "-w", "program", "componentize", "program"]
        subprocess.run([*command, "-p", str(_PROGRAM), "-o", str(part)], check=True, capture_output=True)
        shutil.rmtree(packages)
        part.rename(built)
    return built


def _fetch(folder: Path) -> None:
    """Unpack the packages here."""
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--dest", str(wheels), *PACKAGES], check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
