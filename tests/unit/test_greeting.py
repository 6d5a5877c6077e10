"""HELLO and WELCOME: versions are agreed on, and what one side does not know is passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import greeting
from workers.greeting import EXITS, KEEPING_VERSIONS, RUNNING, VERSIONS, Filters, Hello, Versions, Welcome
from workers.protocol import ProtocolError, pack_numbers, pack_rows, pack_tagged

LATER = 999
"""A tag from a later version."""


@pytest.mark.parametrize(
    ("ours", "theirs", "common"),
    [((6, 6), (6, 6), 6), ((6, 8), (7, 9), 8), ((6, 8), (1, 6), 6), ((6, 6), (7, 9), 0), ((7, 9), (6, 6), 0)],
)
def test_the_highest_version_that_both_speak(ours: tuple[int, int], theirs: tuple[int, int], common: int) -> None:
    assert Versions(*ours).common(Versions(*theirs)) == common


@pytest.mark.parametrize("numbers", [(), (6,), (6, 5), (0, 6)])
def test_invalid_versions_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError):
        Hello.decode(pack_tagged({VERSIONS: pack_numbers(*numbers)}))


def test_numbers_of_a_later_version_are_skipped() -> None:
    hello = Hello.decode(pack_tagged({VERSIONS: pack_numbers(6, 7, 8), KEEPING_VERSIONS: pack_numbers(1, 2, 3)}))
    assert (str(hello.versions), str(hello.keeping)) == ("6 to 7", "1 to 2")
    exit_and_more = [2, 101, 0, 5, -1, LATER]
    body = pack_tagged(
        {VERSIONS: pack_numbers(6, 7), EXITS: pack_rows(6, exit_and_more), RUNNING: pack_rows(3, [1] * 6)}
    )
    welcome = Welcome.decode(body)
    assert (welcome.exits, welcome.running) == (exit_and_more[:5], [1, 1, 1, 1])


def test_one_from_before_says_no_versions_of_what_runs() -> None:
    hello = Hello.decode(pack_tagged({VERSIONS: pack_numbers(6, 7)}))
    assert (hello.keeping, hello.keep) == (None, False)
    assert Hello.decode(Hello(Versions(6, 7), keep=True).encode()).keep


@given(st.lists(st.binary(), min_size=6, max_size=6))
def test_a_hello(programs: list[bytes]) -> None:
    sent = Filters(*programs)
    hello = Hello.decode(Hello(Versions(6, 7), sent).encode() + pack_tagged({LATER: b"x"}))
    assert (hello.versions.lowest, hello.versions.highest) == (6, 7)
    assert {name: getattr(hello.filters, name) for name in Filters.__slots__} == {
        name: getattr(sent, name) for name in Filters.__slots__
    }


def test_a_welcome() -> None:
    body = Welcome(
        Versions(6, 7), {b"wasmedge": b"0.14.1", b"another": b"1"}, 6, [1, 100], [2, 101, 0, 5, -1], 1
    ).encode()
    welcome = Welcome.decode(body + pack_tagged({LATER: b"x"}))
    assert (str(welcome.versions), welcome.landlock, welcome.no_empty_root) == ("6 to 7", 6, 1)
    assert welcome.engines == {b"wasmedge": b"0.14.1", b"another": b"1"}
    assert (welcome.running, welcome.exits) == ([1, 100], [2, 101, 0, 5, -1])


@given(st.binary())
def test_hostile_greetings(body: bytes) -> None:
    for decode in (Hello.decode, Welcome.decode):
        with pytest.raises(ProtocolError):
            decode(body)


def test_a_memory_of_images_that_is_no_number_is_refused() -> None:
    with pytest.raises(ProtocolError, match="0 numbers came, and 1 are needed"):
        Hello.decode(pack_tagged({VERSIONS: pack_numbers(6, 7), 8: b""}))


def test_no_tag_of_a_hello_is_given_twice() -> None:
    tags = [VERSIONS, KEEPING_VERSIONS, greeting._KEEP, greeting._IMAGE_MEMORY, *greeting._FILTERS]
    assert len(tags) == len(set(tags))
