"""Usage of processes that no control group counts, and sums over containers."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import fields

import psutil

from sandbox_api.interface import Usage

from ..host import proc

_LIMITS = frozenset({"memory_limit", "swap_limit", "process_limit"})


def of_processes(pids: Iterable[int], at_ns: int) -> Usage:
    """The sum of these processes, from /proc; those that have ended count nothing.

    Memory is what each has written for itself: workers are forks, and neither what they have in common nor pages of
    files are one's own. So a control group counts them, too. There are no peak, no page faults and no limits in it.
    """
    return total([_of_process(pid, at_ns) for pid in pids], at_ns)


def total(usages: Sequence[Usage], at_ns: int) -> Usage:
    """The sum of all. A limit is the sum of limits where each has one, and else 0: none."""
    sums: dict[str, int] = {}
    for name in (field.name for field in fields(Usage)):
        values = list(map(operator.attrgetter(name), usages))
        sums[name] = sum(values) if name not in _LIMITS or all(values) else 0
    return Usage(**(sums | {"at": at_ns}))


def _of_process(pid: int, at_ns: int) -> Usage:
    try:
        process = psutil.Process(pid)
        cpu = process.cpu_times()
        memory = _memory(process)
        try:
            io = process.io_counters()
            moved = io.read_bytes, io.write_bytes
        except psutil.AccessDenied:
            moved = 0, 0
    except psutil.NoSuchProcess:
        return Usage(at=at_ns)
    user, system = round(cpu.user * 1e6), round(cpu.system * 1e6)
    return Usage(
        at=at_ns,
        memory=memory.get("Private_Dirty", 0),
        anon=memory.get("Private_Dirty", 0),
        file=memory.get("Private_Clean", 0),
        swap=memory.get("SwapPss", 0),
        cpu=user + system,
        cpu_user=user,
        cpu_system=system,
        processes=1,
        read_bytes=moved[0],
        written_bytes=moved[1],
    )


def _memory(process: psutil.Process) -> dict[str, int]:
    try:
        return proc.memory(process.pid)
    except PermissionError:
        info = process.memory_info()
        return {"Private_Dirty": info.rss - info.shared}
