"""ttrpc's frames: any bytes, in any pieces, are the same frames, or ``BrokenFrame``."""

from __future__ import annotations

from sandbox_api.ttrpc import frames

WORDS = (b"\0\0\0\0\0\0\0\1\1\0", b"\0\x40\0\0", b"\0\x40\0\1")


def run(data: bytes) -> None:
    found, broken = _fed([data])
    assert frames.whole(data) == (len(data) if broken else sum(10 + len(each.message) for each in found))
    at = 0
    for frame in found:
        encoded = frames.encode(frame.stream, frame.type, frame.message)
        end = at + len(encoded)
        assert encoded[:9] == data[at : at + 9]
        assert data[at + 9] == frame.flags
        assert encoded[10:] == data[at + 10 : end]
        at = end
    step = 1 + (data[-1] if data else 0) % 32
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    assert _fed(pieces) == (found, broken)


def _fed(pieces: list[bytes]) -> tuple[list[frames.Frame], str]:
    decoder = frames.Decoder()
    found: list[frames.Frame] = []
    taken = 0
    try:
        for piece in pieces:
            taken += len(piece)
            found += decoder.feed(piece)
            rest = taken - sum(10 + len(each.message) for each in found)
            assert decoder.partial == (rest > 0)
    except frames.BrokenFrame as error:
        return found, f"{error.stream} {error}"
    return found, ""
