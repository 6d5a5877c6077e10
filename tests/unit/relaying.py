"""A relay as a real process, with a client's FIFO on one side of it and a guest's pipe on the other."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from workers.protocol import pack_numbers, send
from workers.relay_protocol import INPUT, PUMP

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 20
BOOT = """
import resource, sys
sys.path.insert(0, sys.argv[1])
if int(sys.argv[3]):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]),) * 2)
from workers import helper, relay
helper.IDLE_SECONDS = float(sys.argv[2])
relay.main()
"""


class Relay:
    """A relay with a connection to it."""

    def __init__(self, folder: Path, idle_seconds: float = 30, open_files: int = 0) -> None:
        self.folder = folder
        self.path = str(folder / "relay.sock")
        arguments = [str(ROOT), str(idle_seconds), str(open_files), self.path]
        command = [sys.executable, "-I", "-S", "-c", BOOT, *arguments]
        self._said = folder / "relay.stderr"
        with self._said.open("wb") as stderr:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
        assert self.process.stdout is not None
        with self.process.stdout:
            assert self.process.stdout.readline() == b"ready\n"
        self.connection = self.connect()
        self._numbers = iter(range(1000, 2000))

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        return connection

    def tell(self, kind: int, *numbers: int, fds: tuple[int, ...] = ()) -> None:
        send(self.connection, kind, pack_numbers(*numbers), fds)

    def said(self) -> str:
        """Its standard error so far."""
        return self._said.read_text()

    def passes_a_byte(self) -> bool:
        """Whether it lives; if so, it has done all that it was told before, and looked at every pump since."""
        for _ in range(2):
            client, source = os.pipe()[::-1]
            guest, sink = os.pipe()
            self.tell(PUMP, next(self._numbers), INPUT, fds=(source, sink))
            os.close(source)
            os.close(sink)
            os.write(client, b"x")
            came = read(guest, 1)
            os.close(client)
            came += read(guest, 1)
            os.close(guest)
            if came != b"x":
                return False
        return True

    def sleeps(self) -> bool:
        """Whether it waits for something to happen: what spins never does."""
        process = psutil.Process(self.process.pid)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if process.status() == psutil.STATUS_SLEEPING:
                return True
        return False

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait(SECONDS)


def read(fd: int, most: int) -> bytes:
    """The next bytes; b"" at the end."""
    assert select.select([fd], [], [], SECONDS)[0], f"nothing came within {SECONDS} s"
    return os.read(fd, most)


def read_all(fd: int) -> bytes:
    parts = []
    while part := read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def is_quiet(fd: int) -> bool:
    """Neither bytes nor the end have come."""
    return not select.select([fd], [], [], 0)[0]


def reader_is_gone(fd: int) -> bool:
    """Wait until nobody reads what is written here any more."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(SECONDS * 1000))


class Guest:
    """A guest's end of a pipe, and the client's FIFO that the relay feeds it from."""

    def __init__(self, relay: Relay, instance: int) -> None:
        self.fifo = relay.folder / f"fifo{instance}"
        if not self.fifo.exists():
            os.mkfifo(self.fifo)
        source = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.stdin, sink = os.pipe()
        relay.tell(PUMP, instance, INPUT, fds=(source, sink))
        os.close(source)
        os.close(sink)

    def client(self) -> int:
        return os.open(self.fifo, os.O_WRONLY)

    def close(self) -> None:
        os.close(self.stdin)


def write_until_full(relay: Relay, client: int) -> bytes:
    """Write until neither FIFO nor relay nor pipe take more; what was written."""
    os.set_blocking(client, False)
    written = b""
    while True:
        try:
            chunk = os.urandom(4096)
            written += chunk[: os.write(client, chunk)]
        except BlockingIOError:
            before = len(written)
            assert relay.passes_a_byte()  # it had the time to take what it could
            try:
                written += chunk[: os.write(client, chunk)]
            except BlockingIOError:
                assert len(written) == before
                return written
