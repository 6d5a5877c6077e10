"""A network namespace of a test's own, with its loopback up, and a look from inside it."""

from __future__ import annotations

import subprocess
import sys

_UP = """
import fcntl, socket, struct
with socket.socket() as s:  # SIOCSIFFLAGS with IFF_UP (netdevice(7))
    fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 1))
"""
_READ = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as s:
    print(s.makefile().read(), end="")
"""


class NetworkNamespace:
    """Lives as long as the process that keeps it."""

    def __init__(self) -> None:
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> NetworkNamespace:
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._keeper.stdout is not None
        self._keeper.stdout.readline()
        self.run(_UP)
        return self

    @property
    def path(self) -> str:
        return f"/proc/{self._keeper.pid}/ns/net"

    def run(self, script: str, *args: str) -> str:
        """Run a Python script in the namespace; what it prints."""
        command = ["nsenter", f"--net={self.path}", sys.executable, "-c", script, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def read(self, port: int) -> str:
        """Read what a server on this port of the loopback sends."""
        return self.run(_READ, str(port))

    def serve(self, script: str) -> None:
        """Have a Python script serve in the namespace, for as long as that is; it says when it listens."""
        command = ["nsenter", f"--net={self.path}", sys.executable, "-c", script]
        self._servers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert (said := self._servers[-1].stdout) is not None
        assert said.readline() == b"listening\n"

    def __exit__(self, *exc: object) -> None:
        for process in (*self._servers, self._keeper):
            process.kill()
            process.communicate()


_STRANGER = """
import ctypes, os, signal, struct, sys
pid = ctypes.c_int(int(sys.argv[1]))
# struct clone_args (clone3(2)), with one set_tid
arguments = struct.pack("11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(pid), 1, 0)
libc = ctypes.CDLL(None, use_errno=True)
made = libc.syscall(435, arguments, len(arguments))
if made < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
if made == 0:
    os.write(1, b"ready" if libc.unshare(0x40000000) == 0 else b"unfit")  # CLONE_NEWNET
    os.close(1)
    signal.pause()
os.close(1)
sys.stdin.read()
os.kill(made, signal.SIGKILL)
os.wait()
"""


class Stranger:
    """A process that has been given this pid, in a network namespace of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> Stranger:
        command = [sys.executable, "-c", _STRANGER, str(self._pid)]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._parent.stdout is not None
        assert self._parent.stdout.read(5) == b"ready"
        return self

    def __exit__(self, *exc: object) -> None:
        self._parent.communicate()
