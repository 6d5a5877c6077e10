"""ttrpc's frames: however the bytes come in, the same frames come out; and no bytes do harm."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.ttrpc.frames import MAX_MESSAGE, BrokenFrame, Decoder, Frame, encode

HEADER = struct.Struct(">IIBB")  # length, stream, type, flags
CHUNK = 1 << 16

FRAMES = st.builds(Frame, st.integers(0, 2**32 - 1), st.sampled_from((1, 2, 3)), st.integers(0, 255), st.binary())
CUTS = st.lists(st.integers(0, 200))
ANY_BYTES = st.lists(st.one_of(st.binary(max_size=30), FRAMES.map(lambda frame: to_bytes(frame)))).map(b"".join)


def to_bytes(frame: Frame) -> bytes:
    return HEADER.pack(len(frame.message), frame.stream, frame.type, frame.flags) + frame.message


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for cut in sorted(cuts):
        yield data[at:cut]
        at = max(at, cut)
    yield data[at:]


def decode(chunks: Iterable[bytes]) -> tuple[list[Frame], BrokenFrame | None]:
    """The frames, and what broke after them."""
    decoder = Decoder()
    frames: list[Frame] = []
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                frames.append(frame)
    except BrokenFrame as error:
        return frames, error
    return frames, None


def test_the_layout_is_the_protocol_s() -> None:
    assert encode(5, 1, b"abc") == b"\0\0\0\3\0\0\0\5\1\0abc"


@given(st.lists(FRAMES), CUTS)
def test_any_chunking_gives_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    assert decode(pieces(b"".join(map(to_bytes, frames)), cuts)) == (frames, None)


@given(FRAMES, st.integers(1, 300))
def test_what_is_missing_is_never_more_than_the_frame(frame: Frame, begun: int) -> None:
    whole = to_bytes(frame)
    at = min(begun, len(whole) - 1)
    decoder = Decoder()
    assert decoder.missing == 0
    assert list(decoder.feed(whole[:at])) == []
    came = []
    while missing := decoder.missing:
        came += decoder.feed(whole[at : at + missing])
        at += missing
    assert (came, at) == ([frame], len(whole))


@given(ANY_BYTES)
def test_decoding_keeps_every_byte(data: bytes) -> None:
    frames, broken = decode([data])
    read = b"".join(map(to_bytes, frames))
    assert data.startswith(read)
    rest = data[len(read) :]
    if len(rest) < HEADER.size:
        assert broken is None
        return
    length, stream, kind, _ = HEADER.unpack_from(rest)
    if length > MAX_MESSAGE or kind not in (1, 2, 3):
        assert broken is not None
        assert broken.stream == stream
    else:
        assert broken is None
        assert len(rest) < HEADER.size + length


@given(ANY_BYTES, CUTS)
def test_chunking_does_not_change_what_is_broken(data: bytes, cuts: list[int]) -> None:
    frames, broken = decode([data])
    frames_of_pieces, broken_of_pieces = decode(pieces(data, cuts))
    assert frames_of_pieces == frames
    assert str(broken_of_pieces) == str(broken)


def test_a_message_of_the_greatest_length_is_taken() -> None:
    frames, broken = decode([HEADER.pack(MAX_MESSAGE, 1, 1, 0), bytes(MAX_MESSAGE)])
    assert broken is None
    assert [len(frame.message) for frame in frames] == [4 << 20]


@pytest.mark.parametrize("length", [MAX_MESSAGE + 1, 2**32 - 1])
def test_a_greater_length_is_refused_at_its_header(length: int) -> None:
    frames, broken = decode([HEADER.pack(length, 7, 1, 0)])
    assert frames == []
    assert broken is not None
    assert broken.stream == 7
    assert str(length) in str(broken)


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_a_type_that_there_is_not_is_refused(kind: int) -> None:
    good = Frame(3, 1, 0, b"good")
    frames, broken = decode([to_bytes(good) + HEADER.pack(0, 7, kind, 0)])
    assert frames == [good]
    assert broken is not None
    assert broken.stream == 7
    assert f"type {kind}" in str(broken)


def test_no_more_is_held_than_one_frame() -> None:
    message = bytes(MAX_MESSAGE)
    data = 3 * (HEADER.pack(MAX_MESSAGE, 1, 1, 0) + message)
    decoder = Decoder()
    held = []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for at in range(0, len(data), CHUNK):
            for frame in decoder.feed(data[at : at + CHUNK]):
                assert frame.message == message
                del frame
            held.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert max(held) < MAX_MESSAGE * 9 // 8 + 2 * CHUNK  # what grows in place has an eighth to grow into


def test_nothing_is_set_aside_for_what_is_only_announced() -> None:
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert list(decoder.feed(HEADER.pack(MAX_MESSAGE, 1, 1, 0))) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000


def test_a_frame_that_comes_byte_by_byte_costs_what_it_has() -> None:
    """All that had come was copied for each byte more: minutes of everybody's time for a frame of 4 MiB."""
    whole = encode(1, 1, bytes(MAX_MESSAGE))
    decoder = Decoder()
    assert list(decoder.feed(whole[:-2000])) == []
    began = time.thread_time()
    for i in range(len(whole) - 2000, len(whole) - 1):
        assert list(decoder.feed(whole[i : i + 1])) == []
    took = time.thread_time() - began
    assert took < 0.1, took  # 1.2 s when it was copied
    (frame,) = decoder.feed(whole[-1:])
    assert frame.message == bytes(MAX_MESSAGE)
    assert not decoder.partial
