"""What values may be that come out of a parser."""

from __future__ import annotations

import dataclasses
from typing import Any

MOST_WORDS = 20_000
"""Characters of an error's text: it goes into an answer and into a log."""


def check_text(error: Exception) -> None:
    """Whether an error's text can be sent and logged, and is short enough for a log."""
    text = str(error)
    assert 0 < len(text) <= MOST_WORDS, len(text)
    text.encode(errors="backslashreplace")


def check(value: Any) -> None:
    """Whether every string in it can be recorded, sent and logged, and every number fits 64 bits."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, bool | bytes | float | None):
        pass
    elif isinstance(value, int):
        assert -(1 << 63) <= value < 1 << 64, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            check(getattr(value, field.name))
    elif isinstance(value, dict):
        for pair in value.items():
            check(pair)
    elif isinstance(value, tuple | list):
        for each in value:
            check(each)
    else:
        raise AssertionError(f"a {type(value).__name__} came out of a parser")
