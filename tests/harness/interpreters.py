"""Scripts that use the engine, in an interpreter that finds it as the helpers do."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from supervisor.host import interpreters

from .daemon import ROOT


def command(script: str, *arguments: str) -> dict[str, Any]:
    """Arguments for ``subprocess``: command and environment. The script's modules are found in the checkout."""
    start, environment = interpreters.python(engine=True)
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"
    return {"args": [*start, "-c", script, *arguments], "env": {**os.environ, **environment}}


def output(script: str, *arguments: str) -> str:
    """Run it and return its output. Raises ``CalledProcessError``."""
    return subprocess.run(**command(script, *arguments), check=True, capture_output=True, text=True).stdout
