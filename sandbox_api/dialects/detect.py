"""Telling the dialects apart by the bytes of a request: they share one service and its method paths.

A 2023 request has the sandboxer's name in field 1 and the sandbox id in field 2; a v2 request has the id in
field 1 and the name in field 10. Where v2 has a field 2 as well, it is a number, or a list of mounts.
"""

from __future__ import annotations

import re

from ..errors import InvalidArgument

_MOST_FIELDS = 1 << 15
"""Labels and annotations are a field each. They are looked at where every client waits: 20 ms at most."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types (encoding guide)
_ID = re.compile(rb"[!-~]+")  # as text: a mount's bytes begin with a tag, which is no printable character


def is_2023(method: str, request: bytes) -> bool:
    """Tell whether a request of a method in both dialects is of dialect 2023.

    Raises ``InvalidArgument`` where the bytes are no message.
    """
    found = fields(request)
    second = found.get(2)
    if method != "Create":
        return second is not None
    if 6 in found or 10 in found:
        return False
    return second is not None and _ID.fullmatch(second) is not None


def fields(message: bytes) -> dict[int, bytes | None]:
    """List a message's field numbers; with each the bytes of its last value, or None for a number.

    Raises ``InvalidArgument``.
    """
    found: dict[int, bytes | None] = {}
    at = count = 0
    while at < len(message):
        count += 1
        if count > _MOST_FIELDS:
            raise InvalidArgument(f"the request has more than {_MOST_FIELDS} fields")
        tag, at = _varint(message, at)
        wire, length = tag & 7, 0
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            length, at = _varint(message, at)
        else:
            raise InvalidArgument(f"the request fits no dialect: it is no protobuf message (wire type {wire})")
        if at + length > len(message) or not tag >> 3:
            raise InvalidArgument("the request fits no dialect: it is no protobuf message (it ends inside a field)")
        found[tag >> 3] = message[at : at + length] if wire == _BYTES else None
        at += length
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidArgument("the request fits no dialect: it is no protobuf message (a number does not end)")
