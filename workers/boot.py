"""How forkserver and relay begin: a socket to listen on, and one line to whoever started them."""

from __future__ import annotations

import _signal  # the signal module imports enum
import _socket
import posix

READY = b"ready\n"


def listen(path: str) -> _socket.socket:
    """A listening Unix socket at ``path`` that only its owner may connect to. Raises ``OSError``."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    umask = posix.umask(0o177)
    try:
        listener.bind(path)
    finally:
        posix.umask(umask)
    listener.listen(4)
    return listener


def accept(listener: _socket.socket) -> _socket.socket:
    """The next connection, blocking for reads and writes."""
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    connection = _socket.socket(fileno=fd)
    connection.setblocking(True)
    return connection


def default_signals() -> None:
    """Undo what Python's start, or whoever started us (nohup, say), did to signals: guests get the defaults.

    All but SIGPIPE, which stays ignored: that a report finds nobody is to be seen, and not to be died of.
    """
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    for number in range(1, _signal.NSIG):
        if number != _signal.SIGPIPE and _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)


def say_ready() -> None:
    """Tell the starter that the socket listens, and let go of its stdout."""
    posix.write(1, READY)
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.dup2(null, 1)
    posix.close(null)


def say_failed(error: Exception) -> None:
    """Tell the starter in one line why there will be no service."""
    posix.write(1, str(error).replace("\n", " ").encode(errors="replace") + b"\n")
