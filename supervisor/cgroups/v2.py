"""Version 2: one hierarchy, whose controllers are switched on from the top down (kernel: admin-guide/cgroup-v2.rst).

No group may have both processes and groups with controllers (cgroup-v2.rst, "No Internal Process Constraint").
A container that lived in its parent itself would therefore keep every other container, of ours or of another
runtime's, from getting a limit below that parent. So the containers without limits below one parent share a leaf,
``wasm-shared``; where the parent gives out controllers already, each gets its own.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.interface import Usage

from ..host import errors
from .devices import DeviceDenial
from .layout import Layout
from .path import SHARED_LEAF, GroupPath
from .resources import Resources, cpu_weight
from .tree import Setting, Tree

AVAILABLE = "cgroup.controllers"

_NAME = "unified"
_ENABLED = "cgroup.subtree_control"
_COUNTING = frozenset({"memory", "cpu", "pids"})
"""Switched on for every group with a limit, since ``usage`` reads what they count."""


class V2(Layout):
    """The unified hierarchy."""

    version = 2

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._devices = DeviceDenial()
        self.trees: Mapping[str, Tree] = {_NAME: tree}
        self.controllers = frozenset(tree.read((), AVAILABLE).split())
        self.memory = self.freezer = _NAME
        self.remedy = (
            f"see {tree.path((), AVAILABLE)}, the kernel's command line (cgroup_disable=) and Delegate= of systemd"
        )

    def shared(self, group: GroupPath) -> GroupPath:
        """A leaf beside the container's own, were there one."""
        return (*group[:-1], SHARED_LEAF)

    def leaves(self, group: GroupPath, resources: Resources) -> frozenset[str]:
        """One of its own where it has limits, or where the parent gives out controllers anyway."""
        return frozenset({_NAME}) if resources.limited or self._enabled(group[:-1]) else frozenset()

    def homes(self, resources: Resources) -> frozenset[str]:
        """The one tree, for any limit."""
        return frozenset({_NAME}) if resources.limited else frozenset()

    def prepare(self, tree: str, group: GroupPath, resources: Resources) -> None:
        """Switch on, in all groups above, what these limits need and what counts usage.

        Raises ``FailedPrecondition`` where a group above refuses a needed one.
        """
        needs = resources.needs
        if not needs:
            return
        for depth in range(len(group)):
            above = group[:depth]
            there = set(self._tree.read(above, AVAILABLE).split())
            for controller in sorted((needs.keys() | _COUNTING) - self._enabled(above)):
                if controller in there:
                    self._enable(above, controller, needs.get(controller))
                elif controller in needs:
                    raise FailedPrecondition(
                        f"linux.resources: {needs[controller]} needs the {controller} controller, which "
                        f"{self._tree.path(above)} was not given: enable it in {_ENABLED} of the groups above"
                    )

    def deny_devices(self, tree: str, group: GroupPath) -> None:
        """Source: cgroup-v2.rst, "Device controller"."""
        self._devices.attach(self._tree.path(group))

    def settings(self, group: GroupPath, own: frozenset[str], resources: Resources) -> list[Setting]:
        """Nothing for a shared group."""
        if not own:
            return []
        values = [
            *self._swap(group, resources),
            *_limit("memory.max", resources.memory_limit),
            *_limit("memory.low", resources.memory_reservation, none="0"),
            *self._cpu(group, resources),
            *_limit("pids.max", resources.pids_limit),
        ]
        # "No limit" is what a controller that is not switched on has anyway.
        found = [(file, value) for file, value, real in values if real or self._tree.has(group, file)]
        found += [
            (f"cpuset.{key}", value) for key, value in (("cpus", resources.cpus), ("mems", resources.mems)) if value
        ]
        found += resources.unified.items()
        return [Setting(self._tree, group, file, value) for file, value in found]

    def counts(self, own: frozenset[str]) -> bool:
        """The one group has all the controllers that are to be had."""
        return bool(own)

    def usage(self, group: GroupPath, at_ns: int) -> Usage | None:
        """Source: cgroup-v2.rst, the interface files of memory, cpu, pids and io."""
        tree = self._tree
        if not tree.has(group, "memory.current"):
            return None
        memory, cpu = tree.table(group, "memory.stat"), tree.table(group, "cpu.stat")
        io = self._io(group)
        return Usage(
            at=at_ns,
            memory=tree.number(group, "memory.current"),
            memory_limit=tree.number(group, "memory.max"),
            memory_peak=tree.number(group, "memory.peak"),
            anon=memory.get("anon", 0),
            file=memory.get("file", 0),
            inactive_file=memory.get("inactive_file", 0),
            page_faults=memory.get("pgfault", 0),
            major_faults=memory.get("pgmajfault", 0),
            oom_kills=self.oom_kills(group),
            swap=tree.number(group, "memory.swap.current"),
            swap_limit=tree.number(group, "memory.swap.max"),
            cpu=cpu.get("usage_usec", 0),
            cpu_user=cpu.get("user_usec", 0),
            cpu_system=cpu.get("system_usec", 0),
            throttle_periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled=cpu.get("throttled_usec", 0),
            processes=tree.number(group, "pids.current", missing=len(tree.pids(group))),
            process_limit=tree.number(group, "pids.max"),
            read_bytes=io.get("rbytes", 0),
            written_bytes=io.get("wbytes", 0),
        )

    def memory_limit(self, group: GroupPath) -> int:
        """Source: cgroup-v2.rst, memory.max."""
        return self._tree.number(group, "memory.max")

    def oom_kills(self, group: GroupPath) -> int:
        """Read memory.events, which counts groups below as well: there are none."""
        return self._tree.table(group, "memory.events").get("oom_kill", 0)

    def freeze(self, group: GroupPath, freeze: bool) -> None:
        """Source: cgroup-v2.rst, cgroup.freeze."""
        self._tree.write(group, "cgroup.freeze", "1" if freeze else "0")

    def frozen(self, group: GroupPath) -> bool:
        """Source: cgroup-v2.rst, cgroup.events."""
        return self._tree.table(group, "cgroup.events").get("frozen") == 1

    def _enabled(self, group: GroupPath) -> set[str]:
        try:
            return set(self._tree.read(group, _ENABLED).split())
        except FileNotFoundError:  # a parent that is not there yet
            return set()

    def _enable(self, above: GroupPath, controller: str, needed_by: str | None) -> None:
        try:
            self._tree.write(above, _ENABLED, f"+{controller}")
        except OSError as error:
            if errors.lacking(error):
                raise
            if needed_by is None:
                return
            why = "it has processes of its own" if error.errno == errno.EBUSY else error.strerror
            raise FailedPrecondition(
                f"linux.resources: {needed_by} is asked for, but {self._tree.path(above)} cannot hand the {controller} "
                f"controller down: {why}; use a cgroupsPath below another group, or move what is in it to a group below"
            ) from error

    def _swap(self, group: GroupPath, resources: Resources) -> list[tuple[str, str, bool]]:
        """Version 2 limits swap by itself: the sum less the memory."""
        total = resources.memory_swap
        if total is None or total == -1:
            return _limit("memory.swap.max", total)
        memory = resources.memory_limit or self._tree.number(group, "memory.max")
        if not memory or total < memory:
            raise InvalidArgument(
                f"linux.resources: memory.swap {total} is memory and swap together: "
                f"less than memory.limit {memory or 'max'}"
            )
        swap = total - memory
        if swap and not self._tree.has(group, "memory.swap.max"):
            raise FailedPrecondition(
                f"linux.resources: memory.swap {total} is asked for, but this kernel does not account swap: "
                "boot with swapaccount=1, or set it equal to memory.limit"
            )
        return [("memory.swap.max", str(swap), bool(swap))]

    def _cpu(self, group: GroupPath, resources: Resources) -> list[tuple[str, str, bool]]:
        found = []
        if resources.cpu_shares is not None:
            weight = cpu_weight(resources.cpu_shares)
            found.append(("cpu.weight", str(weight), "cpu" in resources.needs))
        quota, period = resources.cpu_quota, resources.cpu_period
        if quota is None and period is not None and self._tree.has(group, "cpu.max"):
            quota_now = self._tree.read(group, "cpu.max").split()[0]
            found.append(("cpu.max", f"{quota_now} {period}", True))
        elif quota is not None:
            text = "max" if quota == -1 else str(quota)
            found.append(("cpu.max", f"{text} {period}" if period else text, quota != -1))
        return found

    def _io(self, group: GroupPath) -> Counter[str]:
        """All devices' ``key=number`` pairs, summed; empty where io is not switched on."""
        total: Counter[str] = Counter()
        if self._tree.has(group, "io.stat"):
            for word in self._tree.read(group, "io.stat").split():
                key, equals, number = word.partition("=")
                if equals:
                    total[key] += int(number)
        return total


def _limit(file: str, limit: int | None, none: str = "max") -> list[tuple[str, str, bool]]:
    if limit is None:
        return []
    return [(file, none, False)] if limit == -1 else [(file, str(limit), True)]
