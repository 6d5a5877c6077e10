"""The programs beside us: ``wasmedge`` by itself, and ``crun run`` with WasmEdge in it; and how to time any program.

They are looked for where ``make bench-peers`` puts them, then on PATH. Nothing of theirs is changed but where crun
keeps its state.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..e2e.containerd import TOOLS

NOT_INSTALLED = "not installed: make bench-peers"
IN_A_ROW = 5
WASMEDGE, CRUN, CONTAINERD = "wasmedge", "crun run", "containerd"

_numbers = itertools.count(1)
_NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
_MOUNTS = [{"destination": "/proc", "type": "proc", "source": "proc"}]


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments and environment."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def spawn(self, stdout: int | None = None) -> int:
        """Start it, with stdin and where not given stdout from and to /dev/null; its pid.

        posix_spawn(3) costs the caller least: subprocess would add half a millisecond of its own.
        """
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
        ]
        if stdout is None:
            actions.append((os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0))
        else:
            actions.append((os.POSIX_SPAWN_DUP2, stdout, 1))
        return os.posix_spawn(self.words[0], self.words, self.environment, file_actions=actions)

    def run_to_end(self, status: int = 0) -> float:
        """Seconds until it has ended; raises ``RuntimeError`` where that is not with this status."""
        begun = time.perf_counter()
        ended = os.waitpid(self.spawn(), 0)[1]
        elapsed = time.perf_counter() - begun
        self._check(ended, status)
        return elapsed

    def first_byte(self) -> float:
        """Seconds until it has written a byte."""
        ours, theirs = os.pipe()
        begun = time.perf_counter()
        pid = self.spawn(theirs)
        os.close(theirs)
        os.read(ours, 1)
        elapsed = time.perf_counter() - begun
        ended = os.waitpid(pid, 0)[1]
        os.close(ours)
        self._check(ended, 0)
        return elapsed

    def _check(self, ended: int, status: int) -> None:
        code = os.waitstatus_to_exitcode(ended)
        if code != status:
            raise RuntimeError(f"{' '.join(self.words)}: status {code} in place of {status}")


@dataclass(frozen=True, slots=True)
class Job:
    """A module for a rival to run, or what a compiler made of it."""

    artifact: Path
    args: tuple[str, ...] = ()
    folder: Path | None = None
    """Its root folder."""
    interpreted: bool = False


def wasmedge() -> Path | None:
    """The program, if it is there."""
    return _find("bin/wasmedge")


def crun() -> Path | None:
    """The program, if it is there and was built with WasmEdge."""
    path = _find("bin/crun")
    if path is None:
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return path if "+WASM:wasmedge" in said.stdout else None


def containerd() -> Path | None:
    """containerd of ``make bench-peers``: no other is run."""
    path = TOOLS / "usr/bin/containerd"
    return path if path.exists() else None


def versions() -> dict[str, str]:
    """Versions of the peers that are there."""
    asked = {WASMEDGE: (wasmedge(), 2), "crun": (crun(), 2), CONTAINERD: (containerd(), 2)}
    found = {}
    for name, (path, word) in asked.items():
        if path is None:
            found[name] = NOT_INSTALLED
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        found[name] = said.stdout.splitlines()[0].split()[word]
    return found


def wasmedge_command(job: Job) -> Command:
    """``wasmedge`` with this job. It has to be there."""
    path = wasmedge()
    assert path is not None
    options = ["--dir", f"/:{job.folder}"] if job.folder else []
    options += ["--force-interpreter"] if job.interpreted else []
    return Command((str(path), *options, str(job.artifact), *job.args))


class Crun:
    """crun with a folder of its own for its state and bundles. Use it as a context manager."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder = folder
        self._path = path

    def __enter__(self) -> Crun:
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *exc: object) -> None:
        state = self._folder / "state"
        for name in os.listdir(state) if state.exists() else []:
            self._command("delete", "--force", name).run_to_end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def bundle(self, job: Job) -> Path:
        """A bundle for this job. A compiled module is run as one when it is named like a module."""
        bundle = self._folder / f"b{next(_numbers)}"
        for name in ("dev", "proc", "sys"):
            (bundle / "rootfs" / name).mkdir(parents=True)
        shutil.copy(job.artifact, bundle / "rootfs" / "app.wasm")
        (bundle / "rootfs" / "app.wasm").chmod(0o755)
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "args": ["/app.wasm", *job.args],
                "env": ["PATH=/"],
                "cwd": "/",
                "user": {"uid": 1000, "gid": 1000},
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs"},
            "mounts": _MOUNTS,
            "linux": {"namespaces": [{"type": kind} for kind in _NAMESPACES]},
            "annotations": {"module.wasm.image/variant": "compat-smart"},
        }
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def run(self, bundle: Path, *, detach: bool = False, cgroup: bool = True) -> Command:
        """``crun run``, of a container with an id of its own."""
        options = ["--detach"] if detach else []
        return self._command("run", *options, "--bundle", str(bundle), f"bench-{next(_numbers)}", cgroup=cgroup)

    def _command(self, *words: str, cgroup: bool = True) -> Command:
        manager = [] if cgroup else ["--cgroup-manager=disabled"]
        return Command((str(self._path), "--root", str(self._folder / "state"), *manager, *words))


@contextmanager
def crun_in(folder: Path) -> Iterator[Crun | None]:
    """crun with its state in this folder; None where it is not installed."""
    path = crun()
    if path is None:
        yield None
        return
    with Crun(folder, path) as running:
        yield running


def interleaved(
    contenders: Mapping[str, Callable[[], float]], rounds: int, step: Callable[[int, int], None], warm_up: int = 3
) -> dict[str, list[float]]:
    """A few of each in turn, again and again, so that what disturbs the machine disturbs all alike.

    A few, and in another order each time: what comes after a program that fills the processor's caches is slower.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for once in contenders.values():
        for _ in range(warm_up):
            once()
    order, chance = list(contenders), random.Random(1)
    for done in range(0, rounds, IN_A_ROW):
        chance.shuffle(order)
        for name in order:
            times[name] += [contenders[name]() for _ in range(min(IN_A_ROW, rounds - done))]
        step(min(rounds, done + IN_A_ROW), rounds)
    return times


def _find(path: str) -> Path | None:
    found = TOOLS / "usr" / path
    if found.exists():
        return found
    elsewhere = shutil.which(found.name)
    return Path(elsewhere) if elsewhere else None
