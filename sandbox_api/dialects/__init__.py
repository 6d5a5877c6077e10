"""The dialects of the Sandbox API: one file each, all behind one table of methods."""

from __future__ import annotations

from collections.abc import Mapping

from ..calls import Kind
from . import dialect_2023, v2
from .detect import is_2023
from .dialect import Dialect, Method

METHODS: Mapping[str, Kind] = {
    "Create": Kind.CHANGE,
    "Start": Kind.CHANGE,
    "Platform": Kind.READ,
    "Prepare": Kind.CHANGE,
    "Purge": Kind.CHANGE,
    "UpdateResources": Kind.CHANGE,
    "Update": Kind.CHANGE,
    "Stop": Kind.CHANGE,
    "Wait": Kind.WAIT,
    "Status": Kind.READ,
    "Shutdown": Kind.CHANGE,
    "Metrics": Kind.READ,
}
"""Every method that some dialect has, and what it does."""


def speaking(method: str, request: bytes) -> Method:
    """Find the method in this request's dialect. Raises ``InvalidArgument`` where it fits none."""
    old, new = dialect_2023.DIALECT.methods.get(method), v2.DIALECT.methods.get(method)
    if old is not None and (new is None or is_2023(method, request)):
        return old
    assert new is not None
    return new


__all__ = ["METHODS", "Dialect", "Method", "speaking"]
