"""The control protocol's bodies: what is packed is unpacked, and other bytes are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.protocol import (
    MAX_BODY,
    MAX_FDS,
    NATIVE,
    WASM,
    Preopen,
    ProtocolError,
    StartRequest,
    encode,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)

NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
COUNTS = st.integers(0, 100)
IDS = st.integers(0, 2**32 - 2)
PREOPENS = st.lists(st.builds(Preopen, st.binary(), st.booleans()))
REQUESTS = st.builds(
    StartRequest,
    instance=st.integers(1, (1 << 63) - 1),
    args=st.lists(st.binary()),
    env=st.lists(st.binary()),
    preopens=PREOPENS,
    function=st.binary(),
    module_kind=st.sampled_from((WASM, NATIVE)),
    uid=IDS,
    gid=IDS,
    groups=st.lists(IDS),
    rlimits=st.lists(st.tuples(st.integers(0, 15), NUMBERS, NUMBERS)),
    oom_score_adj=st.none() | st.integers(-1000, 1000),
    max_pages=st.integers(0, 65536),
    cgroups=COUNTS,
    netns=st.booleans(),
    terminal=st.booleans(),
    network=st.booleans(),
    seccomp=st.binary(),
)


def members(request: StartRequest) -> dict[str, Any]:
    values = {name: getattr(request, name) for name in StartRequest.__slots__}
    return values | {"preopens": [(preopen.path, preopen.readonly) for preopen in request.preopens]}


@given(st.lists(st.binary()))
def test_fields(fields: list[bytes]) -> None:
    assert unpack(pack(fields)) == fields


@given(st.lists(NUMBERS))
def test_numbers(numbers: list[int]) -> None:
    assert list(unpack_numbers(pack_numbers(*numbers))) == numbers


@given(REQUESTS)
def test_a_start_request(request: StartRequest) -> None:
    assert members(StartRequest.decode(request.encode())) == members(request)


def test_a_start_request_s_descriptors_are_counted() -> None:
    preopens = [Preopen(b"/", False), Preopen(b"/data", True)]
    assert StartRequest(instance=1, args=[], env=[], preopens=[]).fd_count() == 5
    assert StartRequest(instance=1, args=[], env=[], preopens=preopens, cgroups=3, netns=True).fd_count() == 11


@given(st.binary())
def test_fields_are_unpacked_from_nothing_but_what_pack_gives(body: bytes) -> None:
    try:
        fields = unpack(body)
    except ProtocolError:
        return
    assert pack(fields) == body


@given(REQUESTS, st.data())
def test_a_start_request_cut_short(request: StartRequest, data: st.DataObject) -> None:
    body = request.encode()
    with pytest.raises(ProtocolError):
        StartRequest.decode(body[: data.draw(st.integers(0, len(body) - 1))])


@given(st.one_of(st.binary(), st.lists(st.one_of(st.binary(), st.lists(st.binary()).map(pack))).map(pack)))
def test_a_hostile_start_request(body: bytes) -> None:
    """Bytes at random, and fields at random in the right framing."""
    refused_or_read(StartRequest.decode, body)


@given(REQUESTS, st.data())
def test_a_damaged_start_request(request: StartRequest, data: st.DataObject) -> None:
    body = bytearray(request.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    refused_or_read(StartRequest.decode, bytes(body))


@given(REQUESTS, st.data())
def test_a_start_request_with_one_hostile_field(request: StartRequest, data: st.DataObject) -> None:
    fields = unpack(request.encode())
    hostile = st.one_of(
        st.binary(max_size=9), st.lists(NUMBERS).map(lambda them: pack_numbers(*them)), st.lists(st.binary()).map(pack)
    )
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(hostile)
    refused_or_read(StartRequest.decode, pack(fields))


def refused_or_read(decode: Callable[[bytes], object], body: bytes) -> None:
    try:
        decode(body)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\1\0\0\0",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f" + bytes(64),
        b"\1\0\0\0" + b"\xff\xff\xff\xff",
        b"\0\0\0\0" + b"left over",
    ],
)
def test_lengths_that_do_not_add_up(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(body)


@pytest.mark.parametrize(("size", "fds"), [(MAX_BODY + 1, 0), (0, MAX_FDS + 1)])
def test_what_the_peer_would_refuse_is_not_sent(size: int, fds: int) -> None:
    with pytest.raises(ProtocolError):
        encode(1, bytes(size), [0] * fds)


@pytest.mark.parametrize(
    "numbers",
    [
        {"uid": -1},
        {"gid": -1},
        {"groups": [-1]},
        {"cgroups": -1},
        {"module_kind": 2},
        {"max_pages": -1},
        {"max_pages": 1 << 40},
        {"oom_score_adj": 1001},
    ],
)
def test_numbers_that_do_not_fit(numbers: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        StartRequest.decode(StartRequest(instance=1, args=[], env=[], preopens=[], **numbers).encode())


def test_a_preopen_without_bytes() -> None:
    fields = unpack(StartRequest(instance=1, args=[], env=[], preopens=[Preopen(b"/", False)]).encode())
    preopens = fields.index(pack([b"\0/"]))
    with pytest.raises(ProtocolError):
        StartRequest.decode(pack([*fields[:preopens], pack([b""]), *fields[preopens + 1 :]]))
