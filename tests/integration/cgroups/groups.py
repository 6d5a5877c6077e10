"""The host's control groups, and guests that join them as workers do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.cgroups import Cgroup

from ...harness.names import RUN

MIB = 1 << 20
ROOT = Path("/sys/fs/cgroup")
UNIFIED = ROOT / "unified"
NAME = f"wasm-sandboxer-test-{RUN}"

Join = Callable[..., "Guest"]

needs_root = pytest.mark.skipif(os.geteuid() != 0 or not os.access(ROOT, os.W_OK), reason="needs root and cgroups")
needs_v1 = pytest.mark.skipif(
    not (ROOT / "memory" / "cgroup.procs").exists(), reason="needs cgroup v1 at its usual place"
)
needs_v2 = pytest.mark.skipif(not (UNIFIED / "cgroup.procs").exists(), reason="needs a hybrid cgroup v2 tree")
needs_hugetlb = pytest.mark.skipif(
    not (UNIFIED / "cgroup.controllers").exists() or "hugetlb" not in (UNIFIED / "cgroup.controllers").read_text(),
    reason="needs a controller in the hybrid cgroup v2 tree",
)


class Guest:
    """A process that joined a container's groups as a worker does: descriptors from outside, and "0" written."""

    def __init__(self, group: Cgroup, code: str) -> None:
        fds = [os.open(path, os.O_WRONLY) for path in group.entrances()]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=fds,
                preexec_fn=lambda: [os.write(fd, b"0") for fd in fds] and None,
            )
        finally:
            for fd in fds:
                os.close(fd)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def answers(self, within: float) -> bool:
        """Whether the echo guest does anything."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        os.write(self.process.stdin.fileno(), b"x")
        return self.heard(within)

    def heard(self, within: float) -> bool:
        assert self.process.stdout is not None
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if os_read(self.process.stdout.fileno()):
                return True
            time.sleep(0.002)
        return False

    def says(self, within: float = 10) -> str:
        """Read what it writes, in one piece, until it ends."""
        self.process.wait(within)
        assert self.process.stdout is not None
        return os_read(self.process.stdout.fileno()).decode().strip()

    def end(self) -> int:
        self.process.kill()
        return self.process.wait(10)


ECHO = "import os\nwhile c := os.read(0, 1): os.write(1, c)"


def opens(path: str) -> str:
    """Code of a guest that says why it cannot open a device."""
    return f"""
try:
    open({path!r}, "rb", 0).close()
    print("opened", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
"""


def os_read(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    except BlockingIOError:
        return b""


def leftovers() -> list[Path]:
    return [path for path in ROOT.glob(f"*/{NAME}*") if path.is_dir()]


def groups() -> set[str]:
    """All groups of this test in all hierarchies, as ``memory/a/b``."""
    return {
        os.path.relpath(folder, ROOT).replace(f"/{NAME}", "")
        for top in leftovers()
        for folder, _, _ in os.walk(top)
        if Path(folder) != top
    }


def value(tree: str, group: str, file: str) -> str:
    return (ROOT / tree / NAME / group / file).read_text().strip()
