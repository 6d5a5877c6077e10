"""A control group of its own for a daemon, in which the kernel counts what it holds for it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class Account:
    """Kernel memory and page cache of what is started with ``prefix``. It needs the controller of memory."""

    def __init__(self) -> None:
        self._old = (ROOT / "memory/cgroup.procs").exists()
        self._group = (ROOT / "memory" if self._old else ROOT) / f"soak-{os.getpid()}"
        self._group.mkdir()
        self.prefix = ["/bin/sh", "-c", f'echo $$ > {self._group}/cgroup.procs && exec "$@"', "sh"]
        """A command that joins the group, and becomes what follows."""

    def count(self) -> tuple[int, int]:
        """KiB that the kernel cannot take back: its own memory, and pages of tmpfs and memory files."""
        with contextlib.suppress(OSError):  # it takes back what it can, such as names of files that are gone
            (self._group / ("memory.force_empty" if self._old else "memory.reclaim")).write_text("4G")
        lines = (self._group / "memory.stat").read_text().splitlines()
        values = {name: int(value) for name, value in map(str.split, lines)}
        kernel = int(self._read("memory.kmem.usage_in_bytes")) if self._old else values["kernel"]
        return kernel >> 10, values["shmem"] >> 10

    def _read(self, name: str) -> str:
        return (self._group / name).read_text()

    def close(self) -> None:
        """Remove the group, once its processes have ended."""
        deadline = time.monotonic() + 5
        while True:
            try:
                return self._group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
