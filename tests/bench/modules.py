"""Starts of modules of different sizes, and a real program: cold, warm and interpreted, beside ``wasmedge``.

Warm: its machine code is in the cache, and the sandboxer has seen both before. Cold: the cache is empty, and
nobody has seen the module. What is generated has no program of that size to stand for it in the package index.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..harness.guests import guest
from ..harness.modules import custom
from . import programs, rivals
from .figures import OURS, Figure, milliseconds
from .options import Options
from .progress import Progress
from .rivals import WASMEDGE, Job, interleaved
from .site import Site, first_byte, run_to_end

SECTION = "modules"
INTERPRETED = f"{OURS}, interpreted"
WASMEDGE_INTERPRETED = f"{WASMEDGE}, interpreted"
COLD_AUTO = f"{OURS}, cold, --aot auto (interpreted at first)"
COLD_ALWAYS = f"{OURS}, cold, --aot always (waits for the compiler)"
SIZES = {"640 KiB, as large as QuickJS": 640 << 10, "1 MiB": 1 << 20, "5 MiB": 5 << 20}
QUICK_SIZES = {"48 KiB": 48 << 10}
SMALL = "26 KiB, a guest in C"
START = "create to first byte: {}"
SOLVER = "boolector (1.2 MiB) solves a small problem"
TINY = 4 << 10
"""Bytes of the module that a sandboxer starts before any clock runs."""
WARM_ROUNDS, COLD_ROUNDS = 40, 5


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """First bytes of each module, and whole lives of boolector."""
    sizes = QUICK_SIZES if options.quick else SIZES
    modules = {SMALL: guest("hello"), **{f"{name}, generated": programs.sized(size) for name, size in sizes.items()}}
    solver = None if options.quick else programs.boolector()
    progress.part(f"{SECTION}: compiling ahead, where no run before has")
    programs.warm(*modules.values(), *([solver] if solver else []))
    with Site(cache=programs.AOT) as site, Site("never") as slow_site:
        for name, module in modules.items():
            yield from _starts(site, slow_site, name, module, options, progress)
        if solver:
            yield from _solver(site, slow_site, solver, options, progress)
        elif not options.quick:
            yield milliseconds(SECTION, SOLVER, OURS, (), note="not fetched: make bench-peers")
    for name, module in modules.items():
        yield from _cold(name, module, options, progress)


def _starts(
    site: Site, slow_site: Site, name: str, module: Path, options: Options, progress: Progress
) -> Iterator[Figure]:
    progress.part(f"{SECTION}: {name}")
    what = START.format(name)
    workload, slow_workload = site.workload(module), slow_site.workload(module)
    with site.connect() as connection, slow_site.connect() as slow_connection:
        contenders = {
            OURS: lambda: first_byte(connection, site.piped(workload)),
            INTERPRETED: lambda: first_byte(slow_connection, slow_site.piped(slow_workload)),
        }
        if rivals.wasmedge():
            contenders[WASMEDGE] = rivals.wasmedge_command(Job(programs.product(module))).first_byte
        times = interleaved(contenders, options.rounds(WARM_ROUNDS), progress.step)
    for subject, seconds in times.items():
        yield milliseconds(SECTION, what, subject, seconds)
    if not rivals.wasmedge():
        yield milliseconds(SECTION, what, WASMEDGE, (), note=rivals.NOT_INSTALLED)


def _solver(site: Site, slow_site: Site, solver: Path, options: Options, progress: Progress) -> Iterator[Figure]:
    progress.part(f"{SECTION}: boolector")
    problem = programs.problem()
    args, status = (f"/{problem.name}",), programs.UNSATISFIABLE
    workload = site.workload(solver, *args, files=[problem])
    slow_workload = slow_site.workload(solver, *args, files=[problem])
    with site.connect() as connection, slow_site.connect() as slow_connection:
        warm = {OURS: lambda: run_to_end(connection, site.task(workload), status)}
        slow = {INTERPRETED: lambda: run_to_end(slow_connection, slow_site.task(slow_workload), status)}
        if rivals.wasmedge():
            compiled = rivals.wasmedge_command(Job(programs.product(solver), args, problem.parent))
            plain = rivals.wasmedge_command(Job(solver, args, problem.parent, interpreted=True))
            warm[WASMEDGE] = lambda: compiled.run_to_end(status)
            slow[WASMEDGE_INTERPRETED] = lambda: plain.run_to_end(status)
        times = interleaved(warm, options.rounds(WARM_ROUNDS), progress.step)
        times |= interleaved(slow, options.rounds(COLD_ROUNDS), progress.step, warm_up=0)
    for subject, seconds in times.items():
        yield milliseconds(SECTION, SOLVER, subject, seconds)
    if not rivals.wasmedge():
        yield milliseconds(SECTION, SOLVER, WASMEDGE, (), note=rivals.NOT_INSTALLED)


def _cold(name: str, module: Path, options: Options, progress: Progress) -> Iterator[Figure]:
    """A sandboxer of its own for each start, with an empty cache; and a module that none has seen, each time."""
    what = START.format(name)
    rounds = 1 if options.quick else COLD_ROUNDS
    for subject, aot in ((COLD_AUTO, "auto"), (COLD_ALWAYS, "always")):
        progress.part(f"{SECTION}: {name}, cold, {aot}")
        seconds = []
        for number in range(rounds):
            with Site(aot) as site, site.connect() as connection:
                first_byte(connection, site.piped(site.workload(programs.sized(TINY))))
                workload = site.workload(module)
                with (workload.rootfs / "app.wasm").open("ab") as file:
                    file.write(custom(b"round", bytes([number])))
                seconds.append(first_byte(connection, site.piped(workload)))
            progress.step(number + 1, rounds)
        yield milliseconds(SECTION, what, subject, seconds)
