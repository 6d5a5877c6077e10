"""The dialects of the Sandbox API: one file each, all behind one table of methods."""

from __future__ import annotations

from . import v2
from .dialect import Dialect, Method

ALL: tuple[Dialect, ...] = (v2.DIALECT,)
METHODS = frozenset(name for dialect in ALL for name in dialect.methods)
"""Every method that some dialect has."""


def speaking(method: str, request: bytes) -> Method:
    """The dialect's method that this request is for."""
    return v2.DIALECT.methods[method]


__all__ = ["ALL", "METHODS", "Dialect", "Method", "speaking"]
