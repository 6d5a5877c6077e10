"""When a process was started: with its pid it names the process for good, since pids come round again."""

from __future__ import annotations

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
