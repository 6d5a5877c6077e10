"""Tens of thousands of idle instances from one image, alive at once: ``--only alive --instances 20000,50000``.

It is bounded in time: what is not started after ``SECONDS`` is left out, and what lives is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..harness.guests import guest
from . import programs
from .density import LIKELY_KIB, RESERVE_KIB
from .figures import OURS, RATE, Figure, kib, milliseconds
from .machine import KINDS, meminfo, room_for, settled
from .options import Options
from .progress import Progress
from .site import Crowd, Site, first_byte

SECTION = "alive"
MEMORY = "memory of an idle instance from an image, all kernel memory included, by instances alive"
LIES = "where that memory lies (/proc/meminfo), by instances alive"
FILLING = "instances started a second, on the way there, by instances alive"
START = "create to first byte, by instances alive"
SECONDS = 420.0
STARTS = 30
SETTLE_SECONDS = 10.0
WARM = 5


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Instances sleep, with a pending Wait each."""
    sleep, hello = guest("sleep"), guest("hello")
    programs.warm(sleep, hello)
    began = time.monotonic()
    with room_for(max(options.instances)), Site(cache=programs.AOT) as site:
        crowd, brief = Crowd(site, site.workload(sleep, "1000000")), site.workload(hello)
        with site.connect() as connection:
            for _ in range(WARM):  # until there are images
                first_byte(connection, site.piped(brief))
                for _ in crowd.grow(crowd.alive + 1):
                    pass
                time.sleep(0.2)
        begun, before = crowd.alive, settled(min(options.settle, SETTLE_SECONDS))
        each = float(LIKELY_KIB)
        for level in options.instances:
            if meminfo()["MemAvailable"] - (level - crowd.alive) * each < RESERVE_KIB:
                yield Figure(SECTION, MEMORY, OURS, "KiB", at=level, note="left out: the machine has not the memory")
                break
            progress.part(f"{SECTION}: {level:,} instances")
            from_, started = crowd.alive, time.perf_counter()
            for alive in crowd.grow(level):
                progress.step(alive, level)
                if time.monotonic() - began > SECONDS:
                    break
            elapsed = time.perf_counter() - started
            at = crowd.alive
            yield Figure(SECTION, FILLING, OURS, RATE, (round((at - from_) / elapsed, 1),), at)
            after = settled(min(options.settle, SETTLE_SECONDS))
            each = (before["MemAvailable"] - after["MemAvailable"]) / (at - begun)
            yield kib(SECTION, MEMORY, each, at=at)
            for kind in KINDS:
                yield kib(SECTION, LIES, (after[kind] - before[kind]) / (at - begun), subject=kind, at=at)
            with site.connect() as connection:
                times = [first_byte(connection, site.piped(brief)) for _ in range(options.rounds(STARTS))]
            yield milliseconds(SECTION, START, OURS, times, at=at)
            if at < level:
                yield Figure(SECTION, MEMORY, OURS, "KiB", at=level, note=f"not within {SECONDS:.0f} s")
                break
        progress.part(f"{SECTION}: ending {crowd.alive:,} instances")
        site.shutdown()
        crowd.close()
