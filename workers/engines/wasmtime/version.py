"""Tells whether the engine loads: for ``doctor``, in a process of its own, since it is large and native."""

from __future__ import annotations

import sys

from ..engine import EngineMissing
from .engine import Wasmtime


def main() -> None:
    """Print the engine's version, or what is wrong, and end with 1 then."""
    try:
        for engine in Wasmtime.installed():
            engine.prime()
            print(engine.version)
            return
        print("not installed")
    except EngineMissing as error:
        print(error)
    sys.exit(1)
