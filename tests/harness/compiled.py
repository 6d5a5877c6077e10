"""A sandboxer that compiles, with a look into its cache."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from workers.compiler import NOBODY

from .container import Container, Pod
from .daemon import ROOT, Daemon

LEVELS = ("O0", "O2")


def until(what: str, condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for what comes about by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)


class Node:
    """A sandboxer and a pod on it, with a look into its cache."""

    def __init__(self, daemon: Daemon, cache: Path) -> None:
        self.daemon = daemon
        self.cache = cache
        self.pod = Pod(daemon)

    def products(self) -> list[Path]:
        return sorted(self.cache.glob("*/*.so"))

    def product(self, module: bytes, level: str) -> Path | None:
        name = f"{hashlib.sha256(module).hexdigest()}.{level}.so"
        return next((path for path in self.products() if path.name == name), None)

    def compiled(self, level: str) -> int:
        """How often something has been compiled at this level."""
        return len(re.findall(rf"compiled \S+ at {level}|not compiled: \S+ at {level}", self.daemon.log_text()))

    def wait_compiled(self, module: bytes) -> None:
        """Until this sandboxer has compiled it at its best, and said so."""
        told = f"compiled {hashlib.sha256(module).hexdigest()[:12]} at O2"
        until("compiled", lambda: self.product(module, "O2") and told in self.daemon.log_text())

    def run(self, module: bytes, *args: str) -> int:
        return self.pod.with_wasm(module).args(*args).build().start().wait()

    def compilers(self) -> list[psutil.Process]:
        """The processes that compile."""
        assert self.daemon.process is not None
        found = []
        for process in psutil.Process(self.daemon.process.pid).children(recursive=True):
            try:
                if process.uids().real == NOBODY and "compiler" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                pass
        return found

    def close(self) -> None:
        self.pod.shutdown()
        self.pod.close()


def native(container: Container, node: Node) -> bool:
    """Whether it runs machine code from the cache."""
    return f" {node.cache}/" in Path(f"/proc/{container.pid}/maps").read_text()


def warm(node: Node, *files: Path, stack: int = 8192) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supervisor", "warm", *map(str, files), "--cache-dir", str(node.cache)]
    shell = ["sh", "-c", f'ulimit -s {stack}; exec "$@"', "sh"]
    return subprocess.run([*shell, *command], cwd=ROOT, capture_output=True, text=True)
