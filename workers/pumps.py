"""Pumps: bytes from one descriptor to another."""

from __future__ import annotations

import _socket
import posix

from .relay_protocol import INPUT, TERMINAL_INPUT, TERMINAL_OUTPUT

KINDS = (INPUT, TERMINAL_INPUT, TERMINAL_OUTPUT)
CONNECTION = -1
_CHUNK = 65536
_AT_ONCE = 4 * _CHUNK  # bytes in one step: a source that never rests must not hold up the others
_END_OF_INPUT = b"\x04"  # what a terminal takes for the end (VEOF, termios(3))


class Pump:
    """Bytes from one descriptor to another, both non-blocking, until the source ends or the sink is gone."""

    __slots__ = ("closing", "full", "instance", "kind", "pending", "sink", "source")

    def __init__(self, instance: int, kind: int, source: int, sink: int) -> None:
        self.instance = instance
        self.kind = kind
        self.source = source
        self.sink = sink
        self.pending = b""
        self.closing = False
        self.full = False
        posix.set_blocking(source, False)
        posix.set_blocking(sink, False)

    def step(self) -> bool:
        """Move what can be moved; false when it is finished."""
        moved = 0
        try:
            while moved < _AT_ONCE or self.closing:
                if not self.pending:
                    self.pending = posix.read(self.source, _CHUNK)
                    if not self.pending:
                        return False
                written = posix.write(self.sink, self.pending)
                moved += written
                self.pending = self.pending[written:]
                if self.pending:
                    return True
            return True
        except BlockingIOError:
            # With bytes pending the sink is full; without, the source is empty for now.
            return bool(self.pending) or not self._close()
        except OSError:  # the guest, or its terminal, is gone
            return False

    def _close(self) -> bool:
        """Whether this pump ends here because CloseIO asked for it."""
        if self.closing and self.kind == TERMINAL_INPUT:
            try:
                posix.write(self.sink, _END_OF_INPUT)
            except OSError:
                pass
        return self.closing


class Forward(Pump):
    """One direction of a client's connection to a server behind us, on duplicates of both sockets.

    A socket that is closed with unread bytes in it resets its peer's (unix(7): ECONNRESET). So where the server is
    gone, the client is told by an orderly end, and what it still sends is read until it hangs up.
    """

    __slots__ = ("draining",)

    def __init__(self, source: int, sink: int) -> None:
        super().__init__(0, CONNECTION, source, sink)
        self.draining = False

    def step(self) -> bool:
        """Move what can be moved; false when the source has ended."""
        moved = 0
        try:
            while moved < _AT_ONCE:
                if not self.pending:
                    self.pending = posix.read(self.source, _CHUNK)
                    if not self.pending:
                        break
                moved += len(self.pending)
                if not self.draining:
                    try:
                        self.pending = self.pending[posix.write(self.sink, self.pending) :]
                    except BrokenPipeError:
                        self.draining = True
                if self.draining:
                    self.pending = b""
                if self.pending:
                    return True
            else:
                return True
        except BlockingIOError:
            return True
        except OSError:  # the source was reset
            pass
        _shut_down(self.sink)
        return False


def _shut_down(fd: int) -> None:
    """Tell a socket's peer that no more comes (shutdown(2), SHUT_WR)."""
    sock = _socket.socket(fileno=fd)
    try:
        sock.shutdown(_socket.SHUT_WR)
    except OSError:  # it is gone already
        pass
    finally:
        sock.detach()
