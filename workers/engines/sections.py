"""The outline of a WebAssembly binary: its header and sections (WebAssembly, "Binary Format", "Modules").

Only for processes without privileges: a stranger wrote these bytes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = b"\0asm\1\0\0\0"
COMPONENT = b"\0asm\x0d\0\1\0"
"""The component model's version 13, layer 1."""
_CUSTOM, _START = 0, 8


def sections(code: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each section's kind, and where it begins, its content begins, and it ends. Malformed ones end beyond the end."""
    at = len(MODULE)
    while at < len(code):
        begin = at
        size, content = _leb(code, at + 1)
        at = content + size
        yield code[begin], begin, content, at


def has_start(code: bytes) -> bool:
    """Whether instantiating the module runs code of its own."""
    return any(kind == _START for kind, *_ in sections(code))


def without_custom(code: bytes, name: bytes) -> bytes:
    """The module without its custom sections of this name. What is malformed stays."""
    kept = bytearray(code[: len(MODULE)])
    for kind, begin, content, end in sections(code):
        size, at = _leb(code, content) if kind == _CUSTOM else (0, content)
        # A name that ends beyond its section is another's bytes.
        if kind != _CUSTOM or at + size > end or code[at : at + size] != name:
            kept += code[begin:end]
    return bytes(kept)


def _leb(code: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 (WebAssembly, "Integers"), and where it ends."""
    value = shift = 0
    while at < len(code) and shift < 35:
        byte = code[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at
