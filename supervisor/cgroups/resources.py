"""A container's limits, from the OCI runtime specification's LinuxResources (config-linux.md)."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_api.errors import InvalidArgument

DEFAULT_SHARES = 1024
"""The default weight of a group, and of a single process beside groups (sched(7))."""

_MOST = (1 << 63) - 1
_LONGEST_LIST = 16384
_MOST_FILES = 256
_CPU_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_UNIFIED_NAME = re.compile(r"[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)+")


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits and weights. None is "not said": as it is by default, or as it was before an update; -1 is no limit.

    Devices, huge pages, block IO and network priorities are not here: they mean nothing to a WASI guest.
    """

    memory_limit: int | None = None
    """Bytes."""
    memory_swap: int | None = None
    """Bytes of memory and swap together."""
    memory_reservation: int | None = None
    """Bytes that are spared when memory runs short."""
    cpu_shares: int | None = None
    """Weight in version 1's measure: 2 to 262144, and 1024 by default."""
    cpu_quota: int | None = None
    """Microseconds of CPU time in each period."""
    cpu_period: int | None = None
    """Microseconds."""
    cpus: str = ""
    """CPUs to run on, as ``0-3,7``."""
    mems: str = ""
    """Memory nodes to allocate from, in the same form."""
    pids_limit: int | None = None
    """Tasks, threads among them."""
    unified: Mapping[str, str] = field(default_factory=dict)
    """Version 2's files and what to write into them, after all the others."""

    @classmethod
    def parse(cls, resources: Mapping[str, object]) -> Resources:
        """Read LinuxResources. Zero is "not said", as with runc.

        Raises ``InvalidArgument`` with the member, its value and what is wrong with it.
        """
        memory, cpu, pids = (_object(resources, name) for name in ("memory", "cpu", "pids"))
        limit = _number(memory, "memory.limit", minus_one=True)
        swap = _number(memory, "memory.swap", minus_one=True)
        if limit == -1 and swap is None:
            swap = -1  # "no limit" would stay bounded by the old sum of memory and swap
        if limit is not None and swap is not None and swap != -1 and (limit == -1 or swap < limit):
            raise InvalidArgument(
                f"linux.resources: memory.swap {swap} is memory and swap together: less than memory.limit {limit}"
            )
        return cls(
            memory_limit=limit,
            memory_swap=swap,
            memory_reservation=_number(memory, "memory.reservation", minus_one=True),
            cpu_shares=_number(cpu, "cpu.shares"),
            cpu_quota=_number(cpu, "cpu.quota", minus_one=True),
            cpu_period=_number(cpu, "cpu.period"),
            cpus=_list(cpu, "cpu.cpus"),
            mems=_list(cpu, "cpu.mems"),
            pids_limit=_number(pids, "pids.limit", minus_one=True),
            unified=_unified(_object(resources, "unified")),
        )

    @property
    def needs(self) -> dict[str, str]:
        """The controllers that have to enforce this, each with the member that asks for it.

        Default shares need none, since a process beside groups weighs as much as a group of 1024; nor does "no limit".
        """
        asked = (
            ("memory", "memory.limit", _real(self.memory_limit)),
            ("memory", "memory.swap", _real(self.memory_swap)),
            ("memory", "memory.reservation", _real(self.memory_reservation)),
            ("cpu", "cpu.shares", self.cpu_shares not in (None, DEFAULT_SHARES)),
            ("cpu", "cpu.quota", _real(self.cpu_quota)),
            ("cpuset", "cpu.cpus", bool(self.cpus)),
            ("cpuset", "cpu.mems", bool(self.mems)),
            ("pids", "pids.limit", _real(self.pids_limit)),
            *((name.partition(".")[0], f"unified[{name}]", True) for name in self.unified),
        )
        return {controller: member for controller, member, real in reversed(asked) if real}

    @property
    def limited(self) -> bool:
        """Whether a group of its own is needed to enforce this."""
        return bool(self.needs)


def cpu_weight(shares: int) -> int:
    """Version 2's cpu.weight (1 to 10000, 100 by default) for version 1's shares (2 to 262144, 1024 by default).

    runc's and crun's formula since 2025: a curve through both ranges' least, default and greatest values.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def _real(limit: int | None) -> bool:
    return limit is not None and limit != -1


def _object(owner: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = owner.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"linux.resources: {name} {reprlib.repr(value)} is {type(value).__name__}, not an object")
    return value


def _number(owner: Mapping[str, object], member: str, minus_one: bool = False) -> int | None:
    value = owner.get(member.partition(".")[2])
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(
            f"linux.resources: {member} {reprlib.repr(value)} is {type(value).__name__}, not a whole number"
        )
    if not (-1 if minus_one else 0) <= value <= _MOST:
        least = "-1 (no limit)" if minus_one else "0"
        raise InvalidArgument(f"linux.resources: {member} {reprlib.repr(value)} is not from {least} to {_MOST}")
    return value or None


def _list(owner: Mapping[str, object], member: str) -> str:
    value = owner.get(member.partition(".")[2])
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or len(value) > _LONGEST_LIST or not _CPU_LIST.fullmatch(value):
        raise InvalidArgument(f"linux.resources: {member} {reprlib.repr(value)} is not a list as 0-3,7")
    return value


def _unified(files: Mapping[str, object]) -> dict[str, str]:
    if len(files) > _MOST_FILES:
        raise InvalidArgument(f"linux.resources: unified has {len(files)} entries; {_MOST_FILES} is the most")
    checked = {}
    for name, value in files.items():
        # cgroup.* would move processes and switch controllers behind our back.
        if not _UNIFIED_NAME.fullmatch(name) or name.startswith("cgroup."):
            raise InvalidArgument(
                f"linux.resources: unified {reprlib.repr(name)} is not the name of a controller's file"
            )
        if not isinstance(value, str) or not value:
            raise InvalidArgument(
                f"linux.resources: unified[{name[:200]}] {reprlib.repr(value)} is not a string to write"
            )
        checked[name] = value
    return checked
