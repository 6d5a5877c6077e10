"""The daemon's own sockets: each for one live daemon, and closed to other users."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 107  # bytes of a path that fit into sockaddr_un (unix(7))

CONTAINERD_EVENTS = "/run/containerd/containerd.sock.ttrpc"
"""Where containerd takes events, unless it is configured otherwise."""


class SocketTaken(Exception):
    """Another program has the socket; the text says which and why."""


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
    raise SocketTaken(f"{path}: another process serves there: stop it or choose another path")


def is_bound(sock: socket.socket, path: Path) -> bool:
    """Whether a listening socket is the one at ``path``, as far as can be told: its name, and that it is there."""
    return sock.getsockname() == str(path) and path.is_socket()


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


def parse_address(text: str) -> tuple[str, int] | Path:
    """Read ``host:port``, ``[address]:port``, ``:port`` (everywhere) or ``unix:PATH``. Raises ``ValueError``."""
    if text.startswith("unix:"):
        return Path(text.removeprefix("unix:")).absolute()
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) < 1 << 16 or (":" in host and host[:1] != "["):
        raise ValueError(f"{text!r} is neither host:port nor unix:PATH")
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen_at(address: str) -> socket.socket:
    """A listening socket at an address as ``parse_address`` reads it. Raises ``SocketTaken`` and ``ValueError``."""
    where = parse_address(address)
    if isinstance(where, Path):
        return listen(where)
    try:
        family = socket.getaddrinfo(*where, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        sock = socket.create_server(where, family=family, backlog=128)
    except OSError as error:
        why = (
            os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        )  # without our address again
        raise SocketTaken(f"{address}: {why}: choose another address") from None
    sock.setblocking(False)
    return sock


def listen(path: Path) -> socket.socket:
    """A listening Unix socket for its owner only. Raises ``SocketTaken``."""
    claim(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with private():
        sock.bind(str(path))
    sock.listen(4096)
    sock.setblocking(False)
    return sock
