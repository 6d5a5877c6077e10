"""The daemon under attack: on a small disk, with a wall clock of its own, in two versions."""

from __future__ import annotations

import struct
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import psutil

from supervisor.host import linux
from supervisor.ipc.forkserver import label

from ..harness.daemon import FORKED, ROOT, Daemon
from ..harness.disk import full
from ..upgrades.trees import next_version

DISK = "size=48m"
LOST, TWICE = 1, 2
"""What may become of a frame (``shim.c``)."""
_CLOCK = struct.Struct("q")
_FRAME = struct.Struct("ii")
NAMES = ("forkserver", "relay", "logger")
"""Helpers that live on when the daemon dies."""


class Node(Daemon):
    """Use it as a context manager, as a ``Daemon``."""

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.dir.mkdir()
        linux.mount("tmpfs", str(self.dir), "tmpfs", 0, DISK)
        self.trees = [ROOT, next_version(self.folder)]
        shim = self.folder / "shim.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-o", str(shim)]
        subprocess.run([*command, str(Path(__file__).parent / "shim.c")], check=True)
        self._told = self.folder / "node"
        self._told.write_bytes(bytes(_CLOCK.size + _FRAME.size))
        self.environment |= {"LD_PRELOAD": str(shim), "CHAOS_NODE": str(self._told)}

    def jump(self, seconds: int) -> None:
        """Have the daemon's wall clock be so much ahead of the host's."""
        self._tell(0, _CLOCK.pack(seconds))

    def misplace(self, what: int, after: int) -> None:
        """Have the frame that the daemon sends after so many be lost with its connection, or sent twice."""
        self._tell(_CLOCK.size, _FRAME.pack(after, what))

    def misplaced(self) -> bool:
        """Whether that has happened."""
        with self._told.open("rb") as file:
            file.seek(_CLOCK.size)
            after, _ = _FRAME.unpack(file.read(_FRAME.size))
        return after <= 0

    def _tell(self, at: int, data: bytes) -> None:
        with self._told.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def switch(self) -> None:
        """Have the other version from its next start on."""
        self.tree = next(tree for tree in self.trees if tree != self.tree)

    def full_disk(self) -> AbstractContextManager[None]:
        """Meanwhile nothing more fits on the disk of --dir."""
        return full(self.dir)

    def mounts(self) -> list[str]:
        """Mount points below the folder, but its disk."""
        return [mount for mount in super().mounts() if mount != str(self.dir)]

    def all_of(self, name: str) -> list[psutil.Process]:
        """The helpers of this name, of either version, the oldest first."""
        socket = f"{self.dir}/{name}-"
        found = []
        for process in psutil.process_iter(["cmdline", "name", "create_time"]):
            last = (process.info["cmdline"] or [""])[-1]
            if last.startswith((socket, label(socket))) and process.info["name"] not in FORKED:
                found.append(process)
        return sorted(found, key=lambda process: process.info["create_time"])

    def all_workers(self) -> list[psutil.Process]:
        """The instances' processes, ended ones that nobody has reaped among them."""
        prefix = label(f"{self.dir}/forkserver")
        found = []
        for process in psutil.process_iter(["cmdline", "name", "ppid"]):
            ours = any(part.startswith(prefix) for part in process.info["cmdline"] or [])
            if ours and process.info["name"] == "wasm-worker":
                found.append(process)
        return found

    def _unmount(self) -> None:
        super()._unmount()
        linux.detach(str(self.dir))
