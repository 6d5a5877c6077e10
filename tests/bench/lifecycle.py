"""Times of one start and of one whole life, beside the peers; the guest says hello and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..e2e.cgroups import remove_cgroups
from ..harness.guests import guest
from . import programs, rivals
from .figures import OURS, Figure, milliseconds
from .options import Options
from .progress import Progress
from .rivals import CRUN, WASMEDGE, Job, interleaved
from .site import Site, first_byte, lifecycle

SECTION = "lifecycle"
COLD = "create to first byte"
WHOLE = "create, start, wait, delete"
WITH_CGROUP = f"{OURS}, with a control group"
CRUN_WITHOUT = f"{CRUN}, without a control group"
ROUNDS = 200

Contenders = dict[str, Callable[[], float]]


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Times of one client that does one thing after another, machine code for all."""
    module = guest("hello")
    programs.warm(module)
    artifact = programs.product(module)
    with (
        Site(cache=programs.AOT) as site,
        rivals.crun_in(site.daemon.folder / "crun") as crun,
        site.connect() as connection,
    ):
        workload, grouped = site.workload(module), site.workload(module, cgroups=True)
        cold: Contenders = {OURS: lambda: first_byte(connection, site.piped(workload))}
        whole: Contenders = {
            OURS: lambda: lifecycle(connection, site.task(workload)),
            WITH_CGROUP: lambda: lifecycle(connection, site.task(grouped)),
        }
        absent = []
        if rivals.wasmedge():
            command = rivals.wasmedge_command(Job(artifact))
            cold[WASMEDGE], whole[WASMEDGE] = command.first_byte, command.run_to_end
        else:
            absent.append(WASMEDGE)
        if crun:
            bundle = crun.bundle(Job(artifact))
            cold[CRUN] = lambda: crun.run(bundle).first_byte()
            whole[CRUN] = lambda: crun.run(bundle).run_to_end()
            whole[CRUN_WITHOUT] = lambda: crun.run(bundle, cgroup=False).run_to_end()
        else:
            absent.append(CRUN)
        try:
            for what, contenders in ((COLD, cold), (WHOLE, whole)):
                progress.part(f"{SECTION}: {what}")
                times = interleaved(contenders, options.rounds(ROUNDS), progress.step)
                for subject, seconds in times.items():
                    yield milliseconds(SECTION, what, subject, seconds)
                for subject in absent:
                    yield milliseconds(SECTION, what, subject, (), note=rivals.NOT_INSTALLED)
        finally:
            remove_cgroups(site.daemon.folder.name)
