"""JSON of clients and images: UTF-8, and every string in it can be written as UTF-8 again."""

from __future__ import annotations

import gc
import json
import re
from typing import Any

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(text: bytes) -> Any:
    """Read a value. Raises ``ValueError``.

    Escapes can spell half of a character (RFC 8259, section 8.2), which can be neither recorded nor sent.
    """
    try:
        value = _loads(text.decode())
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _loads(text: str) -> Any:
    """Read JSON without the garbage collector, which would look at all that is made again and again: 206 to 38 ms."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return json.loads(text)
    finally:
        if collecting:
            gc.enable()
