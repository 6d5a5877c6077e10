"""The machine a run is on: what it is, and how much of its memory is free."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import psutil

from supervisor.commands import doctor

from ..harness.daemon import ROOT

PID_MAX = Path("/proc/sys/kernel/pid_max")
KINDS = ("AnonPages", "PageTables", "Slab", "KernelStack")
"""Lines of /proc/meminfo (proc_meminfo(5)) in which an instance's memory lies."""
SPARE_PIDS = 4096  # for what else runs
SETTLED_KIB = 1024


def describe(peers: Mapping[str, str]) -> dict[str, str]:
    """The machine, the versions (and those of the peers), the commit and the time, in words."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "processor": f"{os.cpu_count()} of {_processor()}",
        "memory": f"{meminfo()['MemTotal'] / (1 << 20):.1f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "libwasmedge": doctor.engine_version()[1],
        "grpcio": metadata.version("grpcio"),
        **peers,
    }


def commit() -> str:
    """The checkout's commit, and whether files differ from it."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git on this machine
            return ""
        return done.stdout.strip()

    known = git("rev-parse", "--short=12", "HEAD")
    if not known:
        return "unknown"
    return known + (", with changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def _processor() -> str:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def meminfo() -> dict[str, int]:
    """/proc/meminfo in KiB, all per-processor counters flushed into it before (admin-guide/sysctl/vm, stat_refresh)."""
    try:
        Path("/proc/sys/vm/stat_refresh").read_text()
    except OSError:
        pass  # an older kernel, or a container; the counters are a second late then
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in _lines("/proc/meminfo"))}


def settled(within: float) -> dict[str, int]:
    """/proc/meminfo once MemAvailable has stood still for two seconds: processes that end hand back late.

    Not later than after ``within`` seconds, since others may be at work.
    """
    deadline = time.monotonic() + within
    seen = [meminfo()]
    while time.monotonic() < deadline:
        time.sleep(0.5)
        seen.append(meminfo())
        last = [each["MemAvailable"] for each in seen[-5:]]
        if len(last) == 5 and max(last) - min(last) <= SETTLED_KIB:
            break
    return seen[-1]


def resident(pid: int) -> int:
    """A process' resident memory in KiB (proc_pid_status(5), VmRSS)."""
    return next(int(line.split()[1]) for line in _lines(f"/proc/{pid}/status") if line.startswith("VmRSS"))


def monitor_seconds() -> float | None:
    """Processor time that the kernel's monitor of memory accesses has taken; None where none runs.

    DAMON (admin-guide/mm/damon) asks each process that shares a page whether it has used it, so where it runs, what
    thousands share is a burden that grows with them, and is none of ours.
    """
    seconds = [
        sum(process.cpu_times()[:2])
        for process in psutil.process_iter(["name"])
        if str(process.info["name"]).startswith("kdamond")
    ]
    return sum(seconds) if seconds else None


@contextmanager
def room_for(processes: int) -> Iterator[None]:
    """Let the kernel have so many processes, and put its limit back afterwards.

    Raises ``OSError``.
    """
    before = int(PID_MAX.read_text())
    needed = processes + SPARE_PIDS
    if needed <= before:
        yield
        return
    PID_MAX.write_text(str(needed))
    try:
        yield
    finally:
        PID_MAX.write_text(str(before))
