"""Generates the message code from the ``.proto`` files: ``python -m tests.protos`` (``make protos``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sandbox_api/proto", "tests/e2e")


def sources() -> list[str]:
    """The ``.proto`` files, relative to the root."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.proto"))]
    return [str(path.relative_to(ROOT)) for path in found]


def generate(target: Path) -> None:
    """Write ``*_pb2.py`` and ``*_pb2.pyi`` for every source below ``target``."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={target}", f"--pyi_out={target}"]
    subprocess.run([*command, *sources()], cwd=ROOT, check=True)


if __name__ == "__main__":
    generate(ROOT)
