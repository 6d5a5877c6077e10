"""A guest that computes: interpreted, as machine code, and as a program of C; each life as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from ..harness.guests import guest
from . import programs, rivals
from .figures import OURS, Figure, milliseconds
from .options import Options
from .progress import Progress
from .rivals import WASMEDGE, Command, Job, interleaved
from .site import Site, run_to_end

SECTION = "compute"
INTERPRETED = f"{OURS}, interpreted"
WASMEDGE_INTERPRETED = f"{WASMEDGE}, interpreted"
NATIVE = "native C"
STEPS = 40_000_000
"""Machine code takes a tenth of a second for them, the interpreter ten."""
WHAT = "xorshift and a table, create to the end"
FAST_ROUNDS, SLOW_ROUNDS = 20, 3


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Times from Task Create to the answer of Wait, and of a process from start to end."""
    steps = str(STEPS // 100 if options.quick else STEPS)
    module = guest("busy")
    programs.warm(module)
    native = Command((str(programs.native("busy")), steps))
    with (
        Site(cache=programs.AOT) as site,
        Site("never") as slow_site,
        site.connect() as connection,
        slow_site.connect() as slow_connection,
    ):
        workload, slow_workload = site.workload(module, steps), slow_site.workload(module, steps)
        fast = {OURS: lambda: run_to_end(connection, site.task(workload))}
        slow = {INTERPRETED: lambda: run_to_end(slow_connection, slow_site.task(slow_workload))}
        if rivals.wasmedge():
            fast[WASMEDGE] = rivals.wasmedge_command(Job(programs.product(module), (steps,))).run_to_end
            slow[WASMEDGE_INTERPRETED] = rivals.wasmedge_command(Job(module, (steps,), interpreted=True)).run_to_end
        fast[NATIVE] = native.run_to_end
        for part, contenders, rounds in (("machine code", fast, FAST_ROUNDS), ("interpreted", slow, SLOW_ROUNDS)):
            progress.part(f"{SECTION}: {part}")
            warm_up = 1 if contenders is fast else 0
            times = interleaved(contenders, options.rounds(rounds), progress.step, warm_up)
            for subject, seconds in times.items():
                yield milliseconds(SECTION, WHAT, subject, seconds)
        if not rivals.wasmedge():
            for subject in (WASMEDGE, WASMEDGE_INTERPRETED):
                yield milliseconds(SECTION, WHAT, subject, (), note=rivals.NOT_INSTALLED)
