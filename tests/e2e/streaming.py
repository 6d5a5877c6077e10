"""The client's end of Exec and Attach: SPDY/3.1 over an upgraded HTTP connection, as kubectl's requests
reach a runtime (it is the one transport there that can close stdin alone).

Only what is needed of SPDY: streams that we open, data, the end of data, and pings. The header blocks
of the answers carry nothing of use and are not unpacked. (Facts: SPDY Protocol, draft 3.1, section 2.)
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PROTOCOL = "v4.channel.k8s.io"

_VERSION = 0x8003
_SYN_STREAM, _RST_STREAM, _PING, _GOAWAY = 1, 3, 6, 7
_FIN = 1


class Session:
    """One exec or attach, over a ``url`` of ``Cri``. Output is gathered as it comes.

    Ask for the streams that the url was made with.
    """

    def __init__(self, url: str, stdin: bool = False, tty: bool = False, seconds: float = 10) -> None:
        self._seconds = seconds
        self._socket, self._buffered = _upgrade(url, seconds)
        self._squeeze = zlib.compressobj()  # without SPDY's dictionary, which is allowed
        self._changed = threading.Condition()
        self._output: dict[str, bytearray] = {}
        self._ended: set[str] = set()
        self._closed = False
        self._names: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        names = ["error", *(["stdin"] if stdin else []), "stdout", "resize" if tty else "stderr"]
        for number, name in enumerate(names):
            self._open(2 * number + 1, name)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # What a test does

    def write(self, data: bytes) -> None:
        """Write to the process's stdin."""
        self._data("stdin", data)

    def close_stdin(self) -> None:
        """End the process's stdin; its output can still be read."""
        self._data("stdin", b"", _FIN)

    def resize(self, width: int, height: int) -> None:
        """Tell the terminal its size, in characters."""
        self._data("resize", json.dumps({"Width": width, "Height": height}).encode() + b"\n")

    def read_until(self, text: bytes, name: str = "stdout") -> bytes:
        """Everything on a stream once ``text`` is in it."""
        self._wait(lambda: text in self._output[name], f"no {text!r} on {name}")
        return bytes(self._output[name])

    def finish(self) -> tuple[bytes, bytes]:
        """Wait until the process has ended; its stdout and stderr."""
        self._wait(lambda: self._closed or "error" in self._ended, "the process did not end")
        outputs = [name for name in ("stdout", "stderr") if name in self._ids]
        self._wait(lambda: self._closed or self._ended.issuperset(outputs), "its output did not end")
        return bytes(self._output["stdout"]), bytes(self._output.get("stderr", b""))

    def exit_status(self) -> int:
        """After ``finish``: what the command ended with. A failure to run it is a ``RuntimeError``."""
        status = json.loads(bytes(self._output["error"]) or b"{}")
        if status.get("status") == "Success":
            return 0
        for cause in (status.get("details") or {}).get("causes") or []:
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        raise RuntimeError(status.get("message") or "the session ended without a status")

    def close(self) -> None:
        """Break the connection, as a client that goes away does."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
        self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The protocol

    def _open(self, stream: int, name: str) -> None:
        self._names[stream], self._ids[name], self._output[name] = name, stream, bytearray()
        pair = b"".join(struct.pack("!I", len(text)) + text for text in (b"streamtype", name.encode()))
        headers = self._squeeze.compress(struct.pack("!I", 1) + pair) + self._squeeze.flush(zlib.Z_SYNC_FLUSH)
        body = struct.pack("!IIH", stream, 0, 0) + headers
        self._socket.sendall(struct.pack("!HHI", _VERSION, _SYN_STREAM, len(body)) + body)

    def _data(self, name: str, data: bytes, flags: int = 0) -> None:
        self._socket.sendall(struct.pack("!II", self._ids[name], flags << 24 | len(data)) + data)

    def _read(self) -> None:
        try:
            while True:
                first, second = struct.unpack("!II", self._exactly(8))
                self._frame(first, second >> 24, self._exactly(second & 0xFFFFFF))
        except (EOFError, OSError):
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def _frame(self, first: int, flags: int, body: bytes) -> None:
        control, kind = first >> 31, first & 0xFFFF
        if not control:
            name = self._names[first]
        elif kind == _PING:
            self._socket.sendall(struct.pack("!II", first, len(body)) + body)
            return
        elif kind == _RST_STREAM:
            name, flags, body = self._names[struct.unpack("!I", body[:4])[0]], _FIN, b""
        elif kind == _GOAWAY:
            raise EOFError
        else:
            return
        with self._changed:
            self._output[name] += body
            if flags & _FIN:
                self._ended.add(name)
            self._changed.notify_all()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffered) < size:
            more = self._socket.recv(65536)
            if not more:
                raise EOFError
            self._buffered += more
        data, self._buffered = self._buffered[:size], self._buffered[size:]
        return data

    def _wait(self, condition: Callable[[], bool], problem: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: condition() or self._closed, self._seconds) or not condition():
                raise TimeoutError(f"{problem}; so far: { {name: bytes(data) for name, data in self._output.items()} }")


def _upgrade(url: str, seconds: float) -> tuple[socket.socket, bytes]:
    """A connection that speaks SPDY, and what came on it already."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80), seconds)
    connection.sendall(
        f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\n"
        f"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(4096)
        if not more:
            break
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        connection.close()
        raise ConnectionError(f"no upgrade: {received.decode(errors='replace')}")
    connection.settimeout(None)
    return connection, rest
