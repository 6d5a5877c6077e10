"""``make-venv.sh``: a virtual environment whose making was interrupted is mended by the next ``make``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging" / "make-venv.sh"
SECONDS = 120

BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    info = "tried-1.dist-info"
    with zipfile.ZipFile(f"{folder}/tried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tried.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tried\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return "tried-1-py3-none-any.whl"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project that needs nothing of the index."""
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tried"\nversion = "1"\n'
    )
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "constraints.txt").touch()
    return tmp_path


def make(checkout: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([SCRIPT, sys.executable, ".venv"], cwd=checkout, start_new_session=True)


def sound(checkout: Path) -> bool:
    """Whether the project, and pip, are in the environment."""
    command = [checkout / ".venv/bin/python", "-I", "-c", "import pip._internal.cli.main, tried"]
    return subprocess.run(command, cwd="/", check=False).returncode == 0


def test_an_interrupted_one_is_made_again_and_a_finished_one_kept(checkout: Path) -> None:
    begun = make(checkout)
    deadline = time.monotonic() + SECONDS
    while not (checkout / ".venv/bin/python").exists():
        assert time.monotonic() < deadline
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    assert not sound(checkout)

    assert make(checkout).wait(SECONDS) == 0
    assert sound(checkout)

    (checkout / ".venv/own").touch()
    assert make(checkout).wait(SECONDS) == 0
    assert (checkout / ".venv/own").exists()

    # Killed while pip worked: it has half of its package.
    (checkout / ".venv/.unfinished").touch()
    next((checkout / ".venv").glob("lib/python*/site-packages/tried.py")).unlink()
    assert make(checkout).wait(SECONDS) == 0
    assert sound(checkout)
    assert not (checkout / ".venv/own").exists()
