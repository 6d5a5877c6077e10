"""The board of calls under way: what one supervisor wrote, the next reads."""

from __future__ import annotations

import os

from supervisor.ipc.board import Board


def test_who_comes_after_finds_what_was_not_ended() -> None:
    first = Board()
    ended = first.begin(1, 5, "State")
    first.begin(1, 7, "Start")
    first.begin(2, 9, "CloseIO")
    first.end(ended)
    second = Board(os.dup(first.fd))
    first.close()
    assert second.calls(1) == [(7, "Start")]
    assert second.calls(2) == [(9, "CloseIO")]
    assert second.calls(3) == []
    second.clear(1)
    assert second.calls(1) == []
    second.close()


def test_a_place_is_free_again_once_its_call_has_ended() -> None:
    board = Board()
    places = [board.begin(3, stream, "Kill") for stream in (1, 3, 5, 7)]
    assert all(places)
    assert len(set(places)) == 4
    assert board.begin(3, 9, "Kill") == 0  # it is noted in another way
    assert board.begin(4, 1, "Kill") not in (0, *places)
    board.end(places[2])
    assert board.begin(3, 9, "Delete") == places[2]
    assert board.calls(3) == [(1, "Kill"), (3, "Kill"), (9, "Delete"), (7, "Kill")]
    board.close()


def test_a_connection_beyond_its_end_has_no_place() -> None:
    """As where the open-file limit was raised since it was made."""
    board = Board()
    assert board.begin(1 << 40, 1, "Kill") == 0
    assert board.calls(1 << 40) == []
    board.clear(1 << 40)
    board.close()
