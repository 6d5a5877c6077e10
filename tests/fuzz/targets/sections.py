"""A module's sections: any bytes come to an end, and of what an engine takes, no section is missed.

That is told by Wasmtime, where it is installed.
"""

from __future__ import annotations

from typing import Any

from workers.engines import sections

try:
    import wasmtime

    _engine: Any = wasmtime.Engine()
except ImportError:
    _engine = None

NAME = b"wasmedge"
WORDS = (sections.MODULE, sections.COMPONENT, b"\0\x09\x08wasmedge", b"\x08\1\0", b"\x80\x80\x80\x80\x00", b"\xff" * 5)
MOST = 8192


def run(data: bytes) -> None:
    found = list(sections.sections(data))
    at = len(sections.MODULE)
    for kind, begin, content, end in found:
        assert begin == at
        assert data[begin] == kind
        assert begin < content <= end
        at = end
    assert at >= min(len(data), len(sections.MODULE))
    starts = sections.has_start(data)
    kept = sections.without_custom(data, NAME)
    assert len(kept) <= len(data)
    assert sections.without_custom(kept, NAME) == kept
    assert sections.has_start(kept) == starts
    if _engine is not None and data[: len(sections.MODULE)] == sections.MODULE:
        _compare(data, found, kept)


def _compare(data: bytes, found: list[tuple[int, int, int, int]], kept: bytes) -> None:
    if not _valid(data):
        return
    assert (found[-1][-1] if found else len(sections.MODULE)) == len(data)
    assert _valid(kept)
    if not sections.has_start(data):
        assert not any(kind == 8 for kind, *_ in found)


def _valid(data: bytes) -> bool:
    try:
        wasmtime.Module.validate(_engine, data)
    except wasmtime.WasmtimeError:
        return False
    return True
