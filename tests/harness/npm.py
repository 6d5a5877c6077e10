"""Packages of the npm registry, for programs that tests make with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def install(folder: Path, *packages: str) -> Path:
    """Install packages below ``folder``: where they are then. Skips the test where there is no npm."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip(f"node and npm are not installed, and {', '.join(packages)} come from there")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", str(folder), "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run([*command, *packages], check=True, cwd=folder)
    return folder / "node_modules"
