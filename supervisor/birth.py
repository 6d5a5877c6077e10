"""When a process was started: with its pid it names the process for good, since pids come round again."""

from __future__ import annotations


def of(pid: int) -> int:
    """Start time of a process in clock ticks since boot (proc_pid_stat(5)); 0 where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; what follows the last one is numbers.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0
