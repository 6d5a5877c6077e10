"""Where a container's output is logged: a JSON file that is rotated, or the host's syslog.

A file's line is ``{"log":"text\\n","stream":"stdout","time":"2026-11-21T13:00:00.000000000Z"}``, as Docker's json-file
driver has it. Files are ``name``, ``name.1`` (the latest before it) and so on.
"""

from __future__ import annotations

import _socket
import posix
import stat
import time
from _json import encode_basestring  # the json module imports re and more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


Line = tuple[str, bytes]
"""A stream's name, and bytes of it; what has no line end goes on in the next."""
DEV_LOG = "/dev/log"
_EINVAL = 22
_MODE = 0o640  # iSulad's own logs have it
_FLAGS = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
_INFO, _ERROR = 6, 3  # severities, RFC 5424


class Lost(Exception):
    """Some lines could not be written: how many, and why."""

    def __init__(self, lines: int, error: OSError) -> None:
        super().__init__(lines, error)
        self.lines = lines
        self.error = error


def timestamp(nanoseconds: int) -> bytes:
    """A time since the epoch, as RFC 3339 with nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode(), rest)


class JsonFile:
    """A JSON log in a folder, of at most ``most_bytes`` in each of ``most_files``; 0 bytes is no bound.

    The folder's descriptor is its own.
    """

    __slots__ = ("_fd", "_folder", "_most_bytes", "_most_files", "_name", "_size")

    def __init__(self, folder: int, name: bytes, most_bytes: int, most_files: int) -> None:
        """Raises ``OSError`` where the file cannot be opened, or is none that is ours alone."""
        self._folder = folder
        self._name = name
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._fd = -1
        self._size = 0
        self._open()

    def write(self, lines: Sequence[Line]) -> None:
        """Append lines, each wholly or not at all. Raises ``Lost``."""
        now = timestamp(time.time_ns())
        gathered: list[bytes] = []
        written = length = 0
        try:
            for stream, text in lines:
                escaped = encode_basestring(text.decode(errors="replace")).encode()
                line = b'{"log":%s,"stream":"%s","time":"%s"}\n' % (escaped, stream.encode(), now)
                if self._most_bytes and self._size + length and self._size + length + len(line) > self._most_bytes:
                    self._append(gathered)
                    written += len(gathered)
                    gathered, length = [], 0
                    self._rotate()
                gathered.append(line)
                length += len(line)
            self._append(gathered)
        except Lost as lost:
            raise Lost(len(lines) - written - len(gathered) + lost.lines, lost.error) from None
        except OSError as error:
            raise Lost(len(lines) - written, error) from None

    def close(self) -> None:
        """Close file and folder."""
        for fd in (self._fd, self._folder):
            if fd >= 0:
                posix.close(fd)
        self._fd = self._folder = -1

    def _open(self) -> None:
        fd = posix.open(self._name, _FLAGS, _MODE, dir_fd=self._folder)
        found = posix.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            posix.close(fd)
            raise OSError(_EINVAL, "not a regular file of one name")
        self._fd = fd
        self._size = found.st_size

    def _append(self, lines: list[bytes]) -> None:
        """Append as many of the lines as fit. Raises ``Lost`` and ``OSError``."""
        if self._fd < 0:
            self._open()
        data = b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += posix.write(self._fd, data[written:])
        except OSError as error:
            kept = length = 0
            for line in lines:
                if length + len(line) > written:
                    break
                kept, length = kept + 1, length + len(line)
            posix.ftruncate(self._fd, self._size + length)
            self._size += length
            raise Lost(len(lines) - kept, error) from None
        self._size += written

    def _rotate(self) -> None:
        if self._most_files < 2:
            posix.ftruncate(self._fd, 0)
            self._size = 0
            return
        for number in range(self._most_files - 1, 0, -1):
            try:
                older = self._numbered(number)
                posix.rename(self._numbered(number - 1), older, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except FileNotFoundError:
                pass
        posix.close(self._fd)
        self._fd = -1
        self._open()

    def _numbered(self, number: int) -> bytes:
        return b"%s.%d" % (self._name, number) if number else self._name


class Syslog:
    """The host's syslog, by its local socket (syslog(3), RFC 3164)."""

    __slots__ = ("_facility", "_sock", "_tag")

    def __init__(self, tag: bytes, facility: int) -> None:
        self._tag = tag
        self._facility = facility
        self._sock: _socket.socket | None = None

    def write(self, lines: Sequence[Line]) -> None:
        """Send lines, each a message. Raises ``Lost``; never waits for a syslog that does not read."""
        now = time.strftime("%b %e %H:%M:%S").encode()
        sent = 0
        try:
            if self._sock is None:
                self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
                self._sock.setblocking(False)
            for stream, text in lines:
                priority = self._facility * 8 + (_ERROR if stream == "stderr" else _INFO)
                self._sock.sendto(b"<%d>%s %s: %s" % (priority, now, self._tag, text.rstrip(b"\n")), DEV_LOG)
                sent += 1
        except OSError as error:
            raise Lost(len(lines) - sent, error) from None

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
