"""Version 1: a hierarchy for each controller, or for some together (kernel: admin-guide/cgroup-v1)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox_api.errors import FailedPrecondition
from sandbox_api.interface import Usage

from .layout import Layout
from .path import GroupPath
from .resources import Resources
from .tree import Setting, Tree

CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "devices")

_LIMIT, _LIMIT_WITH_SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_PERIOD, _QUOTA = "cpu.cfs_period_us", "cpu.cfs_quota_us"
_CPUS, _MEMS = "cpuset.cpus", "cpuset.mems"
_NO_LIMIT = 1 << 62  # the kernel shows "none" as the greatest number of whole pages, about 2^63


class V1(Layout):
    """The controllers that are mounted under one folder. Those that are not, limit and count nothing."""

    version = 1

    def __init__(self, mounts: Mapping[str, str], owner: str = "") -> None:
        """``mounts``: where each controller is mounted; co-mounted ones have the same place."""
        self._name = {controller: os.path.basename(place) for controller, place in mounts.items()}
        self.trees = {os.path.basename(place): Tree(place, owner) for place in mounts.values()}
        self.controllers = frozenset(mounts)
        self.memory = self._name.get("memory")
        self.freezer = self._name.get("freezer")
        self.remedy = "mount its cgroup v1 hierarchy beside the others, or boot with cgroup v2"

    def require(self, resources: Resources) -> None:
        """Version 1 has no place for version 2's files."""
        if resources.unified:
            raise FailedPrecondition(
                "linux.resources: unified is for cgroup v2, and this host runs v1: boot it with v2"
            )
        super().require(resources)

    def shared(self, group: GroupPath) -> GroupPath:
        """The parent itself."""
        return group[:-1]

    def leaves(self, group: GroupPath, resources: Resources) -> frozenset[str]:
        """All trees or none, but for cpuset: its groups cost as much as three others' and count nothing."""
        if not resources.limited:
            return frozenset()
        counting = {name for controller, name in self._name.items() if controller != "cpuset"}
        return self.homes(resources) | counting

    def homes(self, resources: Resources) -> frozenset[str]:
        """The trees of the controllers that enforce them."""
        return frozenset(self._name[controller] for controller in resources.needs)

    def prepare(self, tree: str, group: GroupPath, resources: Resources) -> None:
        """Give cpuset groups their parents' CPUs and nodes: no process may join a group that has none (cpusets.rst)."""
        if tree != self._name.get("cpuset"):
            return
        files = self.trees[tree]
        for depth in range(1, len(group) + 1):
            for file in (_CPUS, _MEMS):
                if not files.read(group[:depth], file).strip():
                    files.write(group[:depth], file, files.read(group[: depth - 1], file))

    def deny_devices(self, tree: str, group: GroupPath) -> None:
        """Source: devices.rst; "a" is all of them."""
        if tree == self._name.get("devices"):
            self.trees[tree].write(group, "devices.deny", "a")

    def settings(self, group: GroupPath, own: frozenset[str], resources: Resources) -> list[Setting]:
        """Only of trees that have the group: elsewhere, "no limit" is the parent's to say."""
        found: list[Setting] = []
        for controller, values in (
            ("memory", self._memory),
            ("cpu", self._cpu),
            ("cpuset", _cpuset),
            ("pids", _pids),
        ):
            name = self._name.get(controller)
            if name in own:
                tree = self.trees[name]
                found += [Setting(tree, group, file, value) for file, value in values(tree, group, resources)]
        return found

    def counts(self, own: frozenset[str]) -> bool:
        """Memory and CPU time are counted by different controllers."""
        return all(self._name.get(controller) in own for controller in ("memory", "cpuacct"))

    def usage(self, group: GroupPath, at_ns: int) -> Usage | None:
        """Sources: memory.rst, cpuacct.rst, pids.rst and, for throttling, scheduler/sched-bwc.rst."""
        memory, accounting = self._tree("memory"), self._tree("cpuacct")
        if not memory.has(group):
            return None
        stat = memory.table(group, "memory.stat")
        limit = _bound(memory.number(group, _LIMIT))
        with_swap = _bound(memory.number(group, _LIMIT_WITH_SWAP))
        throttle = self._tree("cpu").table(group, "cpu.stat") if "cpu" in self._name else {}
        pids = self._tree("pids") if "pids" in self._name else None
        return Usage(
            at=at_ns,
            memory=memory.number(group, "memory.usage_in_bytes"),
            memory_limit=limit,
            memory_peak=memory.number(group, "memory.max_usage_in_bytes"),
            anon=stat.get("total_rss", 0),
            file=stat.get("total_cache", 0),
            inactive_file=stat.get("total_inactive_file", 0),
            page_faults=stat.get("total_pgfault", 0),
            major_faults=stat.get("total_pgmajfault", 0),
            oom_kills=self.oom_kills(group),
            swap=stat.get("total_swap", 0),
            swap_limit=max(0, with_swap - limit) if limit else 0,
            cpu=accounting.number(group, "cpuacct.usage") // 1000,
            cpu_user=accounting.number(group, "cpuacct.usage_user") // 1000,
            cpu_system=accounting.number(group, "cpuacct.usage_sys") // 1000,
            throttle_periods=throttle.get("nr_periods", 0),
            throttled_periods=throttle.get("nr_throttled", 0),
            throttled=throttle.get("throttled_time", 0) // 1000,
            processes=pids.number(group, "pids.current") if pids else len(memory.pids(group)),
            process_limit=pids.number(group, "pids.max") if pids else 0,
        )

    def memory_limit(self, group: GroupPath) -> int:
        """Source: memory.rst."""
        return _bound(self._tree("memory").number(group, _LIMIT))

    def oom_kills(self, group: GroupPath) -> int:
        """memory.oom_control counts them in the victim's group alone."""
        return self._tree("memory").table(group, "memory.oom_control").get("oom_kill", 0)

    def freeze(self, group: GroupPath, freeze: bool) -> None:
        """Source: freezer-subsystem.rst."""
        self._tree("freezer").write(group, "freezer.state", "FROZEN" if freeze else "THAWED")

    def frozen(self, group: GroupPath) -> bool:
        """FREEZING, in between, becomes FROZEN when it is read at the right time (freezer-subsystem.rst)."""
        return self._tree("freezer").read(group, "freezer.state").strip() == "FROZEN"

    def _tree(self, controller: str) -> Tree:
        return self.trees[self._name[controller]]

    def _memory(self, tree: Tree, group: GroupPath, resources: Resources) -> list[tuple[str, str]]:
        reserved = _text("memory.soft_limit_in_bytes", resources.memory_reservation)
        limit, with_swap = resources.memory_limit, resources.memory_swap
        if limit is None and with_swap is None:
            return reserved
        now, with_swap_now = tree.number(group, _LIMIT), _bound(tree.number(group, _LIMIT_WITH_SWAP))
        if not tree.has(group, _LIMIT_WITH_SWAP):
            if with_swap not in (None, -1, limit):
                raise FailedPrecondition(
                    f"linux.resources: memory.swap {with_swap} is asked for, but this kernel does not account swap: "
                    "boot with swapaccount=1, or set it equal to memory.limit"
                )
            with_swap = None
        elif limit is not None and with_swap is None and with_swap_now:
            with_swap = limit + with_swap_now - now  # as much swap as before, which is what version 2 does
        both = [*_text(_LIMIT, limit), *_text(_LIMIT_WITH_SWAP, with_swap)]
        # At no time may the limit of memory be above that of memory and swap together.
        if with_swap is not None and (with_swap == -1 or with_swap > now):
            both.reverse()
        return both + reserved

    def _cpu(self, tree: Tree, group: GroupPath, resources: Resources) -> list[tuple[str, str]]:
        period, quota = resources.cpu_period, resources.cpu_quota
        both = [*_text(_PERIOD, period), *_text(_QUOTA, quota)]
        # The parent may bound quota / period: of the two, the one that lowers it comes first.
        if period is not None and period < tree.number(group, _PERIOD):
            both.reverse()
        return _text("cpu.shares", resources.cpu_shares) + both


def _cpuset(tree: Tree, group: GroupPath, resources: Resources) -> list[tuple[str, str]]:
    return [(file, value) for file, value in ((_CPUS, resources.cpus), (_MEMS, resources.mems)) if value]


def _pids(tree: Tree, group: GroupPath, resources: Resources) -> list[tuple[str, str]]:
    limit = resources.pids_limit
    return [("pids.max", "max")] if limit == -1 else _text("pids.max", limit)


def _text(file: str, value: int | None) -> list[tuple[str, str]]:
    return [] if value is None else [(file, str(value))]


def _bound(limit: int) -> int:
    return limit if limit < _NO_LIMIT else 0
