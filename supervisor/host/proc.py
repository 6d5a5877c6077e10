"""Facts about processes from /proc that psutil does not give.

A pid and its start time name a process for good, since pids come round again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

_PTRACE = 19  # CAP_SYS_PTRACE (capabilities(7))


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot (proc_pid_stat(5)); 0 where there is no such process."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def status_left(pid: int, start_time: int) -> int | None:
    """The wait status of a process that has ended and whose parent has not collected it yet (proc_pid_stat(5)).

    None where that is not so, or not for us to see: then the kernel shows 0, which would be a made-up status.
    """
    fields = _stat(pid)
    if not fields or fields[0] != b"Z" or int(fields[19]) != start_time or not _may_look():
        return None
    return int(fields[49])


def kill_pending(pid: int) -> bool:
    """Whether a process has been sent SIGKILL and is not dead yet: it is frozen, say (proc_pid_status(5))."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            pending = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(signals >> signal.SIGKILL - 1 & 1 for signals in pending)


def has_mounts(folder: str) -> bool:
    """Whether something is mounted below a folder, whose path has no links (proc_pid_mountinfo(5))."""
    below = os.fsencode(folder).rstrip(b"/") + b"/"
    for byte in b"\\ \t\n":
        below = below.replace(bytes([byte]), b"\\%03o" % byte)
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = file.read()
    at = mounts.find(b" " + below)
    while at >= 0:
        if mounts.count(b" ", mounts.rfind(b"\n", 0, at) + 1, at) == 3:  # the fifth field is where it is mounted
            return True
        at = mounts.find(b" " + below, at + 1)
    return False


def find(name: str, argument: str) -> Iterator[int]:
    """Pids of all processes of this name (comm) that have an argument that begins like this, of any parent."""
    comm, wanted = name.encode() + b"\n", os.fsencode(argument)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/comm", "rb", buffering=0) as file:
                    if file.read() != comm:
                        continue
                with open(f"/proc/{entry}/cmdline", "rb", buffering=0) as file:
                    if any(each.startswith(wanted) for each in file.read().split(b"\0")):
                        yield int(entry)
            except (FileNotFoundError, ProcessLookupError):
                pass


def children(pid: int) -> list[int]:
    """Pids of the children of a process of one thread (proc_tid_children(5)); none where it has ended."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def name(pid: int) -> str:
    """The name (comm) of a process; "" where it has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def memory(pid: int) -> dict[str, int]:
    """Bytes by their names in /proc/pid/smaps_rollup (proc(5)), which psutil reads only in part; {} if it has ended.

    Raises ``PermissionError`` without CAP_SYS_PTRACE.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as stream:
            lines = [line.split() for line in stream.readlines()[1:]]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def _stat(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # The name, in parentheses, may hold anything; what follows the last one is numbers.
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _may_look() -> bool:
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _PTRACE & 1)
