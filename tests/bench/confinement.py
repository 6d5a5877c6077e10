"""What a worker's walls cost: sandboxers with all of them, with one less, and with none, in one run.

User, capabilities and no_new_privs are in all. Times take turns; processor time is that of workers. Pages and page
tables are read from each worker's /proc, which a busy machine does not change; the slab is a difference of
/proc/meminfo, which wants a quiet one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil

from ..harness.guests import guest
from . import programs
from .figures import KIB, OURS, Figure, kib, milliseconds
from .images import reaped_seconds
from .machine import settled
from .options import Options
from .progress import Progress
from .rivals import interleaved
from .site import Crowd, Site, lifecycle
from .walled import EMPTY_ROOT, LANDLOCK, NONE, SECCOMP

SECTION = "confinement"
WHOLE = "create, start, wait, delete"
WRITTEN = "pages that an idle instance has written to"
TABLES = "page tables of an idle instance"
SLAB = "slab of an idle instance"
WITHOUT = f"{OURS}, without {{}}"
PROCESSOR = "processor time of a worker"
ROUNDS, ALIVE = 300, 1000
LOOKED_AT = 100
"""Of these instances."""
SETTLE = 5.0
"""Seconds at most for memory to stand still."""
WARM = 20
"""Instances that are there before memory is looked at: the first pay for what all share, their module's image too."""


def variants() -> dict[str, tuple[str, ...]]:
    """The walls that each sandboxer lacks, by its name; the first lacks none."""
    walls = {"seccomp": SECCOMP, "Landlock": LANDLOCK, "the empty root": EMPTY_ROOT}
    lacking = {WITHOUT.format(name): (wall,) for name, wall in walls.items()}
    return {OURS: (), **lacking, WITHOUT.format("any"): tuple(walls.values())}


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """One client's lifecycles of a compiled guest, and hundreds of idle instances."""
    hello, sleep = guest("hello"), guest("sleep")
    programs.warm(hello, sleep)
    with ExitStack() as stack:
        lives = {name: stack.enter_context(_site(lacking)) for name, lacking in variants().items()}
        yield from _times(lives, hello, options, progress)
    for name, lacking in variants().items():
        progress.part(f"{SECTION}: memory, {name}")
        with _site(lacking) as site:
            yield from _memory(name, lacking, site, sleep, options)


def _site(lacking: tuple[str, ...]) -> Site:
    prefix = (sys.executable, "-m", "tests.bench.walled", ",".join(lacking) or NONE)
    return Site(cache=programs.AOT, prefix=prefix)


def _times(sites: dict[str, Site], module: Path, options: Options, progress: Progress) -> Iterator[Figure]:
    progress.part(SECTION)
    workloads = {name: site.workload(module) for name, site in sites.items()}
    with ExitStack() as stack:
        connections = {name: stack.enter_context(site.connect()) for name, site in sites.items()}

        def life(name: str) -> Callable[[], float]:
            return lambda: lifecycle(connections[name], sites[name].task(workloads[name]))

        contenders = {name: life(name) for name in sites}
        for once in contenders.values():
            for _ in range(10):
                once()
        forkservers = {name: site.processes()["forkserver"] for name, site in sites.items()}
        before = {name: reaped_seconds(pid) for name, pid in forkservers.items()}
        times = interleaved(contenders, options.rounds(ROUNDS), progress.step, warm_up=0)
        for name, seconds in times.items():
            yield milliseconds(SECTION, WHOLE, name, seconds)
        for name, pid in forkservers.items():
            each = (reaped_seconds(pid) - before[name]) / len(times[name])
            yield milliseconds(SECTION, PROCESSOR, name, (each,), at=len(times[name]))


def _memory(name: str, lacking: tuple[str, ...], site: Site, module: Path, options: Options) -> Iterator[Figure]:
    crowd = Crowd(site, site.workload(module, "1000000"))
    for _ in crowd.grow(WARM):
        pass
    settle = min(options.settle, SETTLE)
    before, begun, count = settled(settle), crowd.alive, options.rounds(ALIVE)
    for _ in crowd.grow(begun + count):
        pass
    after = settled(settle)
    children = psutil.Process(site.processes()["forkserver"]).children()
    pids = [child.pid for child in children if child.name() == "wasm-worker"][-count:]
    _check(lacking, site, pids[0])
    pids = pids[:LOOKED_AT]
    for what, file, line in ((WRITTEN, "smaps_rollup", "Private_Dirty"), (TABLES, "status", "VmPTE")):
        yield Figure(SECTION, what, name, KIB, tuple(_kib(pid, file, line) for pid in pids))
    site.shutdown()
    crowd.close()
    yield kib(SECTION, SLAB, (after["Slab"] - before["Slab"]) / count, subject=name, at=count)


def _kib(pid: int, file: str, line: str) -> float:
    """A number of a process's file in /proc (proc_pid_smaps(5), proc_pid_status(5))."""
    return float(Path(f"/proc/{pid}/{file}").read_text().partition(f"\n{line}:")[2].split()[0])


def _check(lacking: tuple[str, ...], site: Site, pid: int) -> None:
    """See that a worker has the walls that it is to have and no other. Raises ``RuntimeError``."""
    filters = _kib(pid, "status", "Seccomp_filters")
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    found = {
        SECCOMP: filters > 1,  # one is ``walled``'s
        EMPTY_ROOT: len(mounts) == 1,
        LANDLOCK: "no Landlock" not in site.daemon.log_text(),
    }
    if found != {wall: wall not in lacking for wall in found}:
        raise RuntimeError(f"walls other than was asked for: {found}")
