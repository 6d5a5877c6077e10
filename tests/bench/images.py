"""Five programs from images of them loaded (``--images on``) and loaded each time (``off``), beside ``wasmedge``.

All confined, compiled, through the Task API; both sandboxers take turns in one run. Processor time is that of the
workers, which their forkserver has reaped (proc_pid_stat(5), cutime and cstime).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..harness.guests import guest
from . import programs, rivals
from .figures import OURS, RATE, Figure, kib, milliseconds
from .machine import settled
from .options import Options
from .progress import Progress
from .rivals import WASMEDGE, Job, interleaved
from .site import Crowd, Site, Workload, first_byte, lifecycle, run_to_end
from .throughput import lives_a_second

SECTION = "images"
OFF = f"{OURS}, --images off"
WHOLE, FIRST = "create, start, wait, delete: {}", "create to first byte: {}"
PROCESSOR = "processor time of an instance: {}"
MEMORY = "memory of an idle instance, all kernel memory included: {}"
RATES = "lifecycles a second with 32 clients: {}"
SMALL, PRINTF, SOLVER, MIDDLE, LARGE = "26 KiB", "C with printf", "boolector", "640 KiB, generated", "5 MiB, generated"
SOLVED = f"a small problem solved, create to the end: {SOLVER}"
ROUNDS, CLIENTS, SECONDS = 100, 32, 3.0
ALIVE = 600


@dataclass(frozen=True, slots=True)
class Program:
    """A program that ends at once, and one of its kind that waits."""

    name: str
    brief: Path
    args: tuple[str, ...] = ()
    idle: Path | None = None
    idle_args: tuple[str, ...] = ()


def _programs(options: Options) -> Iterator[Program]:
    yield Program(SMALL, guest("hello"), (), guest("sleep"), ("1000000",))
    yield Program(PRINTF, guest("greet"), (), guest("greet"))
    solver = None if options.quick else programs.boolector()
    if solver is not None:
        yield Program(SOLVER, solver, ("--version",), solver)
    if not options.quick:
        yield Program(MIDDLE, programs.sized(640 << 10))
        yield Program(LARGE, programs.sized(5 << 20), (), programs.sized(5 << 20, waits=True))


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Times of one client, rates of 32, and memory with hundreds alive."""
    for program in _programs(options):
        programs.warm(*{program.brief, program.idle or program.brief})
        with ExitStack() as stack:
            sites = {
                name: stack.enter_context(Site(cache=programs.AOT, images=images))
                for name, images in ((OURS, "on"), (OFF, "off"))
            }
            yield from _times(program, sites, options, progress)
            if program.name == SOLVER:
                yield from _solved(program.brief, sites, options, progress)
        if program.idle is not None:
            for name, images in ((OURS, "on"), (OFF, "off")):
                with Site(cache=programs.AOT, images=images) as site:
                    yield _memory(program, name, site, options, progress)


def _times(program: Program, sites: dict[str, Site], options: Options, progress: Progress) -> Iterator[Figure]:
    progress.part(f"{SECTION}: {program.name}")
    workloads = {name: site.workload(program.brief, *program.args) for name, site in sites.items()}
    with ExitStack() as stack:
        connections = {name: stack.enter_context(site.connect()) for name, site in sites.items()}

        def life(name: str) -> Callable[[], float]:
            return lambda: lifecycle(connections[name], sites[name].task(workloads[name]))

        def first(name: str) -> Callable[[], float]:
            return lambda: first_byte(connections[name], sites[name].piped(workloads[name]))

        whole = {name: life(name) for name in sites}
        firsts = {name: first(name) for name in sites}
        if rivals.wasmedge():
            command = rivals.wasmedge_command(Job(programs.product(program.brief), program.args))
            whole[WASMEDGE], firsts[WASMEDGE] = command.run_to_end, command.first_byte
        for name in sites:
            for _ in range(10):
                whole[name]()
        for what, contenders in ((WHOLE, whole), (FIRST, firsts)):
            for name, seconds in interleaved(contenders, options.rounds(ROUNDS), progress.step).items():
                yield milliseconds(SECTION, what.format(program.name), name, seconds)
        for name, site in sites.items():
            forkserver, count = site.processes()["forkserver"], options.rounds(ROUNDS)
            before = reaped_seconds(forkserver)
            for _ in range(count):
                whole[name]()
            each = (reaped_seconds(forkserver) - before) / count
            yield milliseconds(SECTION, PROCESSOR.format(program.name), name, (each,))
    for name, site in sites.items():
        rate = lives_a_second(site, workloads[name], CLIENTS, options.seconds(SECONDS))
        yield Figure(SECTION, RATES.format(program.name), name, RATE, (round(rate, 1),))


def _solved(solver: Path, sites: dict[str, Site], options: Options, progress: Progress) -> Iterator[Figure]:
    problem = programs.problem()
    args, status = (f"/{problem.name}",), programs.UNSATISFIABLE
    workloads = {name: site.workload(solver, *args, files=[problem]) for name, site in sites.items()}
    with ExitStack() as stack:
        connections = {name: stack.enter_context(site.connect()) for name, site in sites.items()}

        def solve(name: str) -> Callable[[], float]:
            return lambda: run_to_end(connections[name], sites[name].task(workloads[name]), status)

        whole = {name: solve(name) for name in sites}
        if rivals.wasmedge():
            command = rivals.wasmedge_command(Job(programs.product(solver), args, problem.parent))
            whole[WASMEDGE] = lambda: command.run_to_end(status)
        for name, seconds in interleaved(whole, options.rounds(ROUNDS) // 2, progress.step).items():
            yield milliseconds(SECTION, SOLVED, name, seconds)


def _memory(program: Program, name: str, site: Site, options: Options, progress: Progress) -> Figure:
    assert program.idle is not None
    progress.part(f"{SECTION}: {program.name}, idle, {name}")
    workload = site.workload(program.idle, *program.idle_args)
    fifo = site.daemon.folder / "stdin"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    try:
        _warm(site, site.workload(guest("hello")))
        crowd = Crowd(site, workload, stdin="" if program.idle_args else str(fifo))
        for _ in crowd.grow(3):  # until there is an image, and some use it
            pass
        before, begun = settled(options.settle), crowd.alive
        count = options.rounds(ALIVE)
        for _ in crowd.grow(begun + count):
            pass
        after = settled(options.settle)
        site.shutdown()
        crowd.close()
    finally:
        os.close(held)
    each = (before["MemAvailable"] - after["MemAvailable"]) / count
    return kib(SECTION, MEMORY.format(program.name), each, subject=name, at=count)


def _warm(site: Site, workload: Workload) -> None:
    with site.connect() as connection:
        for _ in range(10):
            lifecycle(connection, site.task(workload))


def reaped_seconds(pid: int) -> float:
    """Processor time of a process's children that it has reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
