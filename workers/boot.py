"""The start of forkserver and relay: a socket to listen on, and one line to their starter."""

from __future__ import annotations

import _signal  # the signal module imports enum
import _socket
import posix
import time

READY = b"ready\n"


class ControlListener:
    """A listening Unix socket that only its owner may connect to, and one descriptor in reserve.

    With it a supervisor gets in although there is none left. Let nobody in, and it would take us for dead.
    """

    def __init__(self, path: str) -> None:
        """Raises ``OSError``."""
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        umask = posix.umask(0o177)
        try:
            self._listener.bind(path)
        finally:
            posix.umask(umask)
        self._path = path
        self._inode = posix.stat(path).st_ino
        self._listener.listen(4)
        self._reserve = posix.dup(self._listener.fileno())

    def unlink(self) -> None:
        """Remove the socket, unless another helper's is in its place."""
        try:
            if posix.stat(self._path).st_ino == self._inode:
                posix.unlink(self._path)
        except OSError:
            pass

    def fileno(self) -> int:
        """Readable when a connection is pending."""
        return self._listener.fileno()

    def accept(self) -> _socket.socket | None:
        """The next connection, blocking for reads and writes; None where there is none, or no room for it."""
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            if self._reserve < 0:
                time.sleep(0.05)  # the connection is still pending: do not spin
                return None
            posix.close(self._reserve)
            self._reserve = -1
            return self.accept()
        connection = _socket.socket(fileno=fd)
        connection.setblocking(True)
        return connection

    def left(self) -> None:
        """A connection is gone: have a reserve again."""
        if self._reserve < 0:
            try:
                self._reserve = posix.dup(self._listener.fileno())
            except OSError:
                pass


def default_signals() -> None:
    """Undo changes to signals by Python's start, or by our starter (nohup, say): guests get the defaults.

    All but SIGPIPE, which stays ignored: that a report finds nobody is to be seen, and not to be died of.
    """
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    for number in range(1, _signal.NSIG):
        if number != _signal.SIGPIPE and _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)


def say_ready() -> None:
    """Tell the starter that the socket listens, and close its stdout."""
    posix.write(1, READY)
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.dup2(null, 1)
    posix.close(null)


def say_failed(error: Exception) -> None:
    """Tell the starter in one line why there will be no service."""
    posix.write(1, str(error).replace("\n", " ").encode(errors="replace") + b"\n")
