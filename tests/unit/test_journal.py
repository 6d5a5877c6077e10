"""The journal of pending calls: what one supervisor wrote, the next reads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from supervisor.ipc.journal import Journal, Pending


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal()
    yield made
    made.close()


def reopened(journal: Journal) -> dict[int, list[Pending]]:
    """Read it as the next supervisor does."""
    following = Journal(os.dup(journal.fd))
    try:
        return dict(following.pending())
    finally:
        following.close()


def test_the_next_supervisor_finds_calls_that_were_not_ended(journal: Journal) -> None:
    ended = journal.begin(1, 5, b"State")
    start = journal.begin(1, 7, b"Start")
    wait = journal.begin(2, 9, b"w" * 10_000)
    journal.end(ended)
    assert reopened(journal) == {1: [Pending(start, 7, b"Start")], 2: [Pending(wait, 9, b"w" * 10_000)]}


def test_the_next_supervisor_continues_the_journal(journal: Journal) -> None:
    old = journal.begin(1, 1, b"Kill")
    free = journal.begin(1, 3, b"Kill")
    journal.end(free)
    following = Journal(os.dup(journal.fd))
    following.pending()
    new = [following.begin(1, 5, b"Pause"), following.begin(1, 7, b"Resume")]
    assert new[0] == free
    following.end(old)
    assert reopened(following) == {1: [Pending(new[0], 5, b"Pause"), Pending(new[1], 7, b"Resume")]}
    following.close()


def test_an_ended_calls_room_is_used_again(journal: Journal) -> None:
    for stream in range(1, 2001, 2):
        places = [journal.begin(3, stream, b"x" * length) for length in (4, 40, 400)]
        assert len(set(places)) == 3
        for place in places:
            journal.end(place)
    assert os.fstat(journal.fd).st_size < 2048
    assert reopened(journal) == {}


def test_a_large_journal_shrinks_when_nothing_is_pending(journal: Journal) -> None:
    places = [journal.begin(3, stream, b"x" * 1000) for stream in range(1, 6001, 2)]
    assert os.fstat(journal.fd).st_size > 2 << 20
    for place in places:
        journal.end(place)
    assert os.fstat(journal.fd).st_size < 4096
    place = journal.begin(4, 1, b"Kill")
    assert reopened(journal) == {4: [Pending(place, 1, b"Kill")]}


@pytest.mark.parametrize("length", [10, 100, 10_000])
def test_a_death_in_the_middle_of_a_record_loses_that_record_alone(journal: Journal, length: int) -> None:
    """As after a kill between the two writes of a record: its header is not there yet."""
    whole = journal.begin(1, 1, b"Kill")
    half = journal.begin(1, 3, b"\xff" * length)
    os.pwrite(journal.fd, bytes(16), half)
    following = Journal(os.dup(journal.fd))
    assert following.pending() == {1: [Pending(whole, 1, b"Kill")]}
    places = [following.begin(2, stream, b"y") for stream in (1, 3)]
    assert reopened(following)[2] == [
        Pending(place, stream, b"y") for place, stream in zip(places, (1, 3), strict=True)
    ]
    following.close()


def test_a_journal_of_another_version_counts_as_empty(journal: Journal) -> None:
    journal.begin(1, 1, b"Kill")
    os.pwrite(journal.fd, b"calls, version 9", 0)
    following = Journal(os.dup(journal.fd))
    assert following.pending() == {}
    place = following.begin(2, 1, b"y")
    assert reopened(following) == {2: [Pending(place, 1, b"y")]}
    following.close()
