"""The common part of relay and logger: serve the supervisor's messages beside their own work, and outlive it."""

from __future__ import annotations

import select
import sys

from . import boot
from .protocol import Frame, ProtocolError, Reader, first_numbers, pack_numbers
from .relay_protocol import END, HELLO, RELEASE, VERSIONS, WELCOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handlers = dict[int, tuple[Callable[..., None], int, int]]
    """For each kind of message its method, how many numbers its body has at least, and how many descriptors come."""

IDLE_SECONDS = 30
BYTES = -1
"""In place of how many numbers a body has: its bytes are for the method to read."""


class Helper:
    """The loop of a helper process."""

    def __init__(self, name: str, listener: boot.ControlListener, handlers: Handlers) -> None:
        self._name = name
        self._listener = listener
        ours: Handlers = {
            HELLO: (type(self)._hello, 2, 0),
            END: (type(self)._end, 0, 0),
            RELEASE: (type(self)._release, 0, 0),
        }
        self._handlers: Handlers = {**ours, **handlers}
        self._readers: dict[int, Reader] = {}
        self._files: set[int] = set()  # what epoll does not take: regular files, always ready
        self._dropped: set[int] = set()  # supervisors' connections that this round has closed
        self._ending = False
        self._released = False  # another helper takes what is new
        self._poll = select.epoll()  # and not poll: there may be tens of thousands to look at
        self._poll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Serve until told to end, or until idle for long without a supervisor."""
        while not self._ending:
            needed = self._needed()
            if self._released and not needed:
                return
            needed = needed or bool(self._readers)
            events = self._poll.poll(0 if self._files else None if needed else IDLE_SECONDS)
            if not events and not needed:
                return
            events += [(fd, select.EPOLLIN) for fd in self._files]
            # What brings new descriptors comes last: they may have the numbers of some that this round has closed.
            self._dropped.clear()
            for fd, event in sorted(events, key=self._brings_descriptors):
                if fd in self._dropped:
                    continue
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self._readers:
                    self._receive(fd)
                else:
                    self._serve(fd, event)

    def _needed(self) -> bool:
        """Whether it has something to do, or to hold, without a supervisor."""
        raise NotImplementedError

    def _brings_descriptors(self, event: tuple[int, int]) -> bool:
        """Whether an event brings descriptors from outside."""
        return event[0] in self._readers or event[0] == self._listener.fileno()

    def _serve(self, fd: int, event: int) -> None:
        """Do what an event on one of its own descriptors asks for."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)

    def _accept(self) -> None:
        connection = self._listener.accept()
        if connection is not None:
            self._readers[connection.fileno()] = Reader(connection)
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        reader = self._readers[fd]
        try:
            if reader.receive():
                for frame in reader.frames():
                    self._obey(frame, reader)
                return
        except (ProtocolError, OSError, ValueError, MemoryError) as error:
            self._say(f"supervisor dropped: {error}")
        self._poll.unregister(fd)
        del self._readers[fd]
        self._dropped.add(fd)
        reader.close()
        self._listener.left()

    def _obey(self, frame: Frame, reader: Reader) -> None:
        try:
            if frame.kind not in self._handlers:
                raise ProtocolError(f"no message of kind {frame.kind}")
            handler, count, fds = self._handlers[frame.kind]
            numbers = first_numbers(frame.body, count) if count != BYTES else ()
            if not (frame.lost or len(frame.fds) == fds):
                raise ProtocolError(f"a message of kind {frame.kind} has {len(frame.fds)} descriptors")
            handler(self, reader, frame, *numbers)
        finally:
            frame.close()

    def _hello(self, reader: Reader, frame: Frame, lowest: int, highest: int) -> None:
        self._released = False
        reader.answer(WELCOME, pack_numbers(*VERSIONS))

    def _release(self, reader: Reader, frame: Frame) -> None:
        """Have a new helper take what is new; end when the rest has ended."""
        self._released = True

    def _hear_others(self, reader: Reader) -> None:
        """Take what earlier supervisors had said and is still unread: it came before this one's word."""
        poll = select.poll()
        for fd in [fd for fd, each in self._readers.items() if each is not reader]:
            poll.register(fd, select.POLLIN)
            while fd in self._readers and poll.poll(0):
                self._receive(fd)
            poll.unregister(fd)

    def _end(self, reader: Reader, frame: Frame) -> None:
        self._ending = True


def serve(make: Callable[[boot.ControlListener], Helper]) -> None:
    """Serve on the path that is the last argument: the main function of a fresh interpreter."""
    try:
        boot.default_signals()
        listener = boot.ControlListener(sys.argv[-1])
    except OSError as error:
        boot.say_failed(error)
        sys.exit(1)
    boot.say_ready()
    try:
        make(listener).run()
    finally:
        listener.unlink()
