"""Components for tests, made from their text by the index's wasmtime."""

from __future__ import annotations

from wasmtime import wat2wasm

from .guests import SOURCES


def component(name: str, body: str = "") -> bytes:
    """``tests/guests/components/NAME.wat`` with this body, as a component."""
    text = (SOURCES / "components" / f"{name}.wat").read_text().replace("BODY", body)
    return bytes(wat2wasm(text))
