"""Memory of idle instances, the next start's time by their number, and the memory of a pod that runs nothing.

All memory comes from differences of /proc/meminfo around the whole: pages, page tables, kernel objects and stacks of
the worker, and what supervisor, forkserver and relay keep for it. The benchmark's own process, which holds the pending
Waits, is in it, too, and is told apart in a row of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from sandbox_api.proto import controller_pb2 as pb

from ..e2e.cgroups import remove_cgroups
from ..harness.guests import guest
from . import programs
from .figures import OURS, RATE, Figure, kib, milliseconds
from .machine import KINDS, meminfo, monitor_seconds, resident, room_for, settled
from .options import Options
from .progress import Progress
from .site import Crowd, Site, Workload, first_byte, sandbox

SECTION = "density"
MEMORY = "memory of an idle instance, all kernel memory included, by instances alive"
VARIANT_INTERPRETED, VARIANT_CGROUP = f"{OURS}, interpreted", f"{OURS}, with a control group each"
START = "create to first byte, by instances alive"
FILLING = "instances started a second, on the way there, by instances alive"
MONITOR = "of one processor, meanwhile, for the kernel's DAMON, by instances alive"
LIES = "where that memory lies (/proc/meminfo), by instances alive"
KEPT = "what grew for an instance (resident memory), by instances alive"
CLIENT = "the benchmark's client"
POD = "supervisor, for a sandbox with a pending gRPC Wait"

STARTS = 60
PODS, PODS_BEFORE = 1000, 100
"""Sandboxes that are counted, and how many are made before: the first pay for what all share."""
RESERVE_KIB = 3 << 20
"""Memory that is left to the machine, whatever was asked for."""
LIKELY_KIB = 2048
"""An instance at most, as long as nothing is measured."""
FILL_SECONDS = 600.0
"""Seconds at most to start all of them: the kernel's DAMON slows the last ones. What lives then is measured."""


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Instances sleep, run machine code, have stdout at /dev/null, and a pending Wait each."""
    sleep, hello = guest("sleep"), guest("hello")
    programs.warm(sleep, hello)
    with room_for(max(options.instances)):
        with Site(cache=programs.AOT) as site:
            yield from _levels(site, options, progress, sleep, hello)
        first = options.instances[0]
        for variant, aot, cgroups in ((VARIANT_INTERPRETED, "never", False), (VARIANT_CGROUP, "auto", True)):
            progress.part(f"{SECTION}: {first:,} instances: {variant}")
            with Site(aot, programs.AOT) as site:
                try:
                    yield _variant(site, site.workload(sleep, "1000000", cgroups=cgroups), first, variant, options)
                    site.shutdown()
                finally:
                    remove_cgroups(site.daemon.folder.name)
    with Site(cache=programs.AOT) as site:
        count = PODS // 10 if options.quick else PODS
        progress.part(f"{SECTION}: {count} sandboxes")
        yield _sandboxes(site, count)


def _levels(site: Site, options: Options, progress: Progress, sleep: Path, hello: Path) -> Iterator[Figure]:
    idle, brief = site.workload(sleep, "1000000"), site.workload(hello)
    starts = options.rounds(STARTS)
    _starts(site, brief, 10)  # the first are slower
    crowd = Crowd(site, idle)
    processes = {**site.processes(), CLIENT: os.getpid()}
    before = settled(options.settle)
    kept = {name: resident(pid) for name, pid in processes.items()}
    alone = milliseconds(SECTION, START, OURS, _starts(site, brief, starts))
    each, filling = float(LIKELY_KIB), 0.0
    for level in options.instances:
        more = level - crowd.alive
        if meminfo()["MemAvailable"] - more * each < RESERVE_KIB:
            yield Figure(SECTION, MEMORY, OURS, "KiB", at=level, note="left out: the machine has not the memory")
            break
        progress.part(f"{SECTION}: {level:,} instances")
        monitored, begun = monitor_seconds(), time.perf_counter()
        for alive in crowd.grow(level):
            progress.step(alive, level)
            if filling + time.perf_counter() - begun > FILL_SECONDS:
                break
        elapsed, now = time.perf_counter() - begun, monitor_seconds()
        filling += elapsed
        if crowd.alive < level:
            yield Figure(SECTION, MEMORY, OURS, "KiB", at=level, note=f"not within {FILL_SECONDS:.0f} s")
            more, level = more - level + crowd.alive, crowd.alive
        yield Figure(SECTION, FILLING, OURS, RATE, (round(more / elapsed, 1),), level)
        if monitored is not None and now is not None:
            yield Figure(SECTION, MONITOR, "kdamond", "%", (round((now - monitored) / elapsed * 100, 1),), level)
        progress.part(f"{SECTION}: {level:,} instances, memory")
        after = settled(options.settle)
        each = (before["MemAvailable"] - after["MemAvailable"]) / level
        yield kib(SECTION, MEMORY, each, at=level)
        for kind in KINDS:
            yield kib(SECTION, LIES, (after[kind] - before[kind]) / level, subject=kind, at=level)
        for name, pid in processes.items():
            yield kib(SECTION, KEPT, (resident(pid) - kept[name]) / level, subject=name, at=level)
        if level == options.instances[0]:
            yield alone
        yield milliseconds(SECTION, START, OURS, _starts(site, brief, starts), at=level)
        if filling > FILL_SECONDS:
            break
    progress.part(f"{SECTION}: ending {crowd.alive:,} instances")
    site.shutdown()
    crowd.close()


def _starts(site: Site, workload: Workload, count: int) -> list[float]:
    with site.connect() as connection:
        return [first_byte(connection, site.piped(workload)) for _ in range(count)]


def _variant(site: Site, workload: Workload, count: int, name: str, options: Options) -> Figure:
    _starts(site, site.workload(guest("hello")), 10)
    crowd = Crowd(site, workload)
    before = settled(options.settle)
    for _ in crowd.grow(count):
        pass
    after = settled(options.settle)
    crowd.close()
    return kib(SECTION, MEMORY, (before["MemAvailable"] - after["MemAvailable"]) / count, subject=name, at=count)


def _sandboxes(site: Site, count: int) -> Figure:
    """Sandboxes with nothing in them, each with a pending Wait on one gRPC channel."""
    assert site.daemon.process is not None
    api = site.pod.api
    pending = []
    before = 0.0
    for number in range(PODS_BEFORE + count):
        if number == PODS_BEFORE:
            before = resident(site.daemon.process.pid)
        description = sandbox(number)
        api.call("Create", pb.ControllerCreateRequest(sandbox_id=description.sandbox_id, sandbox=description))
        api.start(description.sandbox_id)
        pending.append(api.wait(description.sandbox_id))
    api.status(sandbox(count - 1).sandbox_id)
    after = resident(site.daemon.process.pid)
    for number in range(PODS_BEFORE + count):
        api.shutdown(sandbox(number).sandbox_id)
    for result in pending:
        result()
    return kib(SECTION, POD, (after - before) / count, at=count)
