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
    ProtocolError,
    encode,
    pack,
    pack_numbers,
    pack_tagged,
    unpack,
    unpack_numbers,
    unpack_tagged,
)
from workers.start_request import (
    CGROUP,
    FOLDER,
    MODULE,
    NATIVE,
    NETNS,
    REPORT,
    STDERR,
    STDIN,
    STDOUT,
    WASM,
    WASMEDGE,
    Descriptors,
    Preopen,
    StartRequest,
)

NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
IDS = st.integers(0, 2**32 - 2)
PREOPENS = st.lists(st.builds(Preopen, st.binary(), st.booleans()))
TAGGED = st.dictionaries(st.integers(0, 0xFFFF), st.binary())
UNKNOWN_TAG, UNKNOWN_ROLE = 999, 200


@st.composite
def requests(draw: st.DrawFn) -> StartRequest:
    preopens = draw(st.lists(st.builds(Preopen, st.binary(), st.booleans()), max_size=20))
    descriptors = Descriptors()
    for role in draw(st.permutations((MODULE, STDIN, STDOUT, STDERR, REPORT))):
        descriptors.put(role, 0)
    for role, count in ((CGROUP, draw(st.integers(0, 20))), (NETNS, draw(st.integers(0, 1))), (FOLDER, len(preopens))):
        descriptors.add(role, *[0] * count)
    return StartRequest(
        instance=draw(st.integers(1, (1 << 63) - 1)),
        args=draw(st.lists(st.binary())),
        env=draw(st.lists(st.binary())),
        preopens=preopens,
        descriptors=descriptors,
        engine=draw(st.sampled_from((WASMEDGE, b"another"))),
        function=draw(st.binary()),
        module_kind=draw(st.sampled_from((WASM, NATIVE))),
        uid=draw(IDS),
        gid=draw(IDS),
        groups=draw(st.lists(IDS)),
        rlimits=draw(st.lists(st.tuples(st.integers(0, 15), NUMBERS, NUMBERS))),
        oom_score_adj=draw(st.none() | st.integers(-1000, 1000)),
        max_pages=draw(st.integers(0, 65536)),
        terminal=draw(st.booleans()),
        network=draw(st.booleans()),
        seccomp=draw(st.lists(st.binary(), max_size=3)),
    )


REQUESTS = requests()


def least(**members: Any) -> StartRequest:
    """A request with no more descriptors than each has."""
    descriptors = Descriptors()
    for role in (REPORT, MODULE, STDIN, STDOUT, STDERR):
        descriptors.put(role, 0)
    return StartRequest(instance=1, descriptors=descriptors, **members)


def members(request: StartRequest) -> dict[str, Any]:
    values = {name: getattr(request, name) for name in StartRequest.__slots__}
    preopens = [(preopen.path, preopen.readonly) for preopen in request.preopens]
    return values | {"preopens": preopens, "descriptors": request.descriptors.roles}


@given(st.lists(st.binary()))
def test_fields(fields: list[bytes]) -> None:
    assert unpack(pack(fields)) == fields


@given(st.lists(NUMBERS))
def test_numbers(numbers: list[int]) -> None:
    assert list(unpack_numbers(pack_numbers(*numbers))) == numbers


@given(REQUESTS)
def test_a_start_request(request: StartRequest) -> None:
    assert members(StartRequest.decode(request.encode())) == members(request)


@given(TAGGED)
def test_tagged_fields(fields: dict[int, bytes]) -> None:
    assert unpack_tagged(pack_tagged(fields)) == fields


@given(REQUESTS)
def test_unknown_fields_are_skipped(request: StartRequest) -> None:
    body = request.encode() + pack_tagged({UNKNOWN_TAG: b"from a later version"})
    assert members(StartRequest.decode(body)) == members(request)


def test_likeness_leaves_out_number_arguments_and_environment() -> None:
    def likeness(instance: int = 1, **members: Any) -> bytes:
        request = least(**members)
        request.instance = instance
        return StartRequest.likeness(request.encode())

    same = likeness(env=[b"HOSTNAME=a"], args=[b"x"])
    assert likeness(2, env=[b"HOSTNAME=b", b"C=d"]) == same
    for other in ({"uid": 1}, {"seccomp": [b"x"]}, {"network": True}, {"function": b"f"}, {"max_pages": 1}):
        assert likeness(**other) != same
    body = pack_tagged({2: bytes([REPORT, MODULE, STDIN, STDOUT, STDERR]), 1: pack_numbers(1)})
    assert StartRequest.likeness(body) == body


def test_absent_fields_have_defaults() -> None:
    body = least().encode()
    present = {tag: field for tag, field in unpack_tagged(body).items() if tag in (1, 2)}  # number and descriptors
    assert members(StartRequest.decode(pack_tagged(present))) == members(least())


def test_descriptors_are_found_by_their_roles() -> None:
    sent = Descriptors()
    for role, fd in ((MODULE, 30), (CGROUP, 40), (STDIN, 31), (STDOUT, 32), (STDERR, 33), (CGROUP, 41), (REPORT, 50)):
        sent.add(role, fd)
    sent.add(UNKNOWN_ROLE, 60)
    sent.add(FOLDER, 70, 71)
    sent.put(MODULE, 34)
    arrived = Descriptors(sent.roles, 4)
    assert len(arrived.fds) == len(sent.fds) == 10
    assert sent.fds[0] == 50  # a worker that fails finds its report pipe there
    for role in (REPORT, MODULE, STDIN, STDOUT, STDERR, CGROUP, FOLDER, UNKNOWN_ROLE, NETNS):
        assert [sent.fds[place - 4] for place in arrived.all(role)] == sent.all(role)
    assert (arrived.one(NETNS), sent.one(MODULE), sent.all(CGROUP)) == (-1, 34, [40, 41])


@pytest.mark.parametrize(
    "roles",
    [
        bytes([REPORT, MODULE, STDIN, STDOUT]),
        bytes([REPORT, MODULE, STDIN, STDOUT, STDERR, STDERR]),
        bytes([MODULE, REPORT, STDIN, STDOUT, STDERR]),
        b"",
    ],
)
def test_descriptors_that_lack_a_role_or_have_it_twice_are_refused(roles: bytes) -> None:
    with pytest.raises(ProtocolError):
        StartRequest.decode(pack_tagged({1: pack_numbers(1), 2: roles}))


def test_preopens_without_their_folders_are_refused() -> None:
    with pytest.raises(ProtocolError):
        StartRequest.decode(least(preopens=[Preopen(b"/", False)]).encode())


@pytest.mark.parametrize("body", [b"\1", b"\1\0\1\0\0\0", pack_tagged({1: b"a"}) * 2])
def test_tagged_fields_that_do_not_add_up(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_tagged(body)


@given(st.binary())
def test_fields_are_unpacked_from_nothing_but_what_pack_gives(body: bytes) -> None:
    try:
        fields = unpack(body)
    except ProtocolError:
        return
    assert pack(fields) == body


@given(REQUESTS, st.data())
def test_a_start_request_cut_short(request: StartRequest, data: st.DataObject) -> None:
    """Between two fields a cut cannot be seen; the frame's length is for that."""
    body = request.encode()
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    ends, whole = set(), b""
    for tag, field in unpack_tagged(body).items():
        whole += pack_tagged({tag: field})
        ends.add(len(whole))
    if len(cut) not in ends:
        with pytest.raises(ProtocolError):
            StartRequest.decode(cut)
    else:
        refused_or_read(StartRequest.decode, cut)


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
    fields = unpack_tagged(request.encode())
    hostile = st.one_of(
        st.binary(max_size=9), st.lists(NUMBERS).map(lambda them: pack_numbers(*them)), st.lists(st.binary()).map(pack)
    )
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(hostile)
    refused_or_read(StartRequest.decode, pack_tagged(fields))


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
def test_oversized_frames_are_not_sent(size: int, fds: int) -> None:
    with pytest.raises(ProtocolError):
        encode(1, bytes(size), [0] * fds)


@pytest.mark.parametrize(
    "numbers",
    [
        {"uid": -1},
        {"gid": -1},
        {"groups": [-1]},
        {"module_kind": 3},
        {"max_pages": -1},
        {"max_pages": 1 << 40},
        {"oom_score_adj": 1001},
    ],
)
def test_numbers_that_do_not_fit(numbers: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        StartRequest.decode(least(**numbers).encode())


def test_a_preopen_without_bytes() -> None:
    request = least(preopens=[Preopen(b"/", False)])
    request.descriptors.add(FOLDER, 0)
    fields = unpack_tagged(request.encode())
    tag = next(tag for tag, field in fields.items() if field == pack([b"\0/"]))
    with pytest.raises(ProtocolError):
        StartRequest.decode(pack_tagged(fields | {tag: pack([b""])}))
