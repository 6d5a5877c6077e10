"""One round of the relay's loop: an event is of the descriptor that it was reported for, and of no later one."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from workers.boot import ControlListener
from workers.protocol import pack_numbers, send
from workers.relay import Relay
from workers.relay_protocol import INPUT, PUMP, TAKE


class OneRound:
    """Reports all that is ready once, in this order."""

    def __init__(self, relay: Relay, order: list[int]) -> None:
        self._relay, self._order, self._poll = relay, order, relay._poll
        self.register, self.unregister, self.modify = self._poll.register, self._poll.unregister, self._poll.modify

    def poll(self, seconds: float | None) -> list[tuple[int, int]]:
        self._relay._ending = True
        return sorted(self._poll.poll(0), key=lambda event: self._order.index(event[0]))


def test_an_event_of_an_input_that_ended_ends_no_other_input(tmp_path: Path) -> None:
    """The new one's descriptors have the numbers of the old one's, whose sink is lost in the same round."""
    with ExitStack() as cleanup:
        listener = ControlListener(f"{tmp_path}/relay.sock")
        relay = Relay(listener)
        supervisor = cleanup.enter_context(socket.socket(socket.AF_UNIX))
        supervisor.connect(f"{tmp_path}/relay.sock")
        relay._accept()
        (reader,) = relay._readers

        def pump(instance: int) -> tuple[int, int]:
            """Its source's writer and its sink's reader."""
            (source, writer), (ours, sink) = os.pipe(), os.pipe()
            send(supervisor, PUMP, pack_numbers(instance, INPUT), [source, sink])
            os.close(source)
            os.close(sink)
            return writer, ours

        ends = pump(1)
        relay._receive(reader)
        old = relay._inputs[1]
        for fd in ends:
            os.close(fd)
        for fd in pump(2):
            cleanup.callback(os.close, fd)
        while (filler := os.open("/dev/null", os.O_RDONLY)) < max(old.source, old.sink):
            cleanup.callback(os.close, filler)
        os.close(filler)
        numbers = [old.source, old.sink]
        relay._poll = OneRound(relay, [old.source, reader, old.sink])  # type: ignore[assignment]
        relay.run()
        new = relay._inputs.get(2)
        assert new is not None
        assert 1 not in relay._inputs
        assert [new.source, new.sink] == numbers
        for fd in numbers:
            os.close(fd)
        relay._readers[reader].close()
        listener.unlink()


def test_an_event_of_a_supervisor_that_was_heard_out_is_not_of_who_connects_meanwhile(tmp_path: Path) -> None:
    """The next one has the number of its connection, and has said nothing yet."""
    with ExitStack() as cleanup:
        listener = ControlListener(f"{tmp_path}/relay.sock")
        cleanup.callback(listener.unlink)
        relay = Relay(listener)
        old, new, silent = (cleanup.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3))
        for each in (old, new):
            each.connect(f"{tmp_path}/relay.sock")
            relay._accept()
        (its_number, number) = relay._readers
        old.shutdown(socket.SHUT_RDWR)
        send(new, TAKE, b"")
        silent.connect(f"{tmp_path}/relay.sock")
        relay._poll = OneRound(relay, [number, listener.fileno(), its_number])  # type: ignore[assignment]
        round_ = threading.Thread(target=relay.run, daemon=True)
        round_.start()
        round_.join(5)
        stuck = round_.is_alive()
        silent.close()
        round_.join(5)
        assert not stuck
        assert list(relay._readers) == [number, its_number]
        for reader in relay._readers.values():
            reader.close()
