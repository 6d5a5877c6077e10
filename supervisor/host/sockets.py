"""The daemon's own sockets: one live daemon each, nobody else's eyes."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 107  # bytes of a path that fit into sockaddr_un (unix(7))


class SocketTaken(Exception):
    """The socket cannot be ours; the text says why."""


def check_folder(folder: Path, longest: str) -> None:
    """Raises ``SocketTaken`` where a socket of the ``longest`` name in this folder would have too long a path."""
    most = _LONGEST - len(longest) - 1
    if len(os.fsencode(folder)) > most:
        raise SocketTaken(
            f"--dir {folder}: its sockets' paths would be too long: choose a folder whose path has at most {most} bytes"
        )


def claim(path: Path) -> None:
    """Make ``path`` free to bind: remove a dead socket. Raises ``SocketTaken`` beside a live one."""
    if len(os.fsencode(path)) > _LONGEST:
        raise SocketTaken(f"{path}: a socket's path has at most {_LONGEST} bytes: choose a shorter one")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SocketTaken(f"{path}: there is no folder {path.parent}: make it, or choose another path") from None
        return
    if not stat.S_ISSOCK(mode):
        raise SocketTaken(f"{path} exists and is no socket: remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise SocketTaken(f"{path}: somebody serves there already: stop it or choose another path")


def give_to_group(path: Path, gid: int | None) -> None:
    """Let a group in as well (mode 0660)."""
    if gid is not None:
        os.chown(path, -1, gid)
        path.chmod(0o660)


@contextmanager
def private() -> Iterator[None]:
    """Sockets made meanwhile are for their owner only (mode 0600)."""
    umask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(umask)


def listen(path: Path) -> socket.socket:
    """A listening Unix socket for its owner only. Raises ``SocketTaken``."""
    claim(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with private():
        sock.bind(str(path))
    sock.listen(4096)
    sock.setblocking(False)
    return sock
