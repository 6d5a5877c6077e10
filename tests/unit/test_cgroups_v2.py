"""Control groups: version 2's rules, on a tree that imitates the kernel's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument, OutOfDescriptors
from sandbox_api.interface import Usage
from supervisor.cgroups import Hierarchy, Resources, detect, devices
from supervisor.cgroups.path import GroupPath
from supervisor.cgroups.tree import Tree
from supervisor.cgroups.v2 import V2

from .cgroup_trees import Kernel, v1

MIB = 1 << 20


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture
def v2(kernel: Kernel) -> Hierarchy:
    return Hierarchy(V2(kernel))


def groups(kernel: Kernel) -> list[str]:
    root = Path(kernel.root)
    return sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.is_dir())


def test_version_2_is_told_by_its_root(kernel: Kernel) -> None:
    hierarchy = detect(kernel.root)
    assert (hierarchy.version, hierarchy.controllers) == (2, {"cpuset", "cpu", "io", "memory", "pids"})


def test_limits_are_written_and_controllers_switched_on_from_the_top(kernel: Kernel, v2: Hierarchy) -> None:
    asked = {
        "memory": {"limit": 10 * MIB, "swap": 15 * MIB, "reservation": MIB},
        "cpu": {"shares": 2, "quota": 50000, "period": 200000, "cpus": "0"},
        "pids": {"limit": 9},
        "unified": {"memory.low": "77", "io.stat": "none"},
    }
    group = v2.create("/kubepods/pod1/abc", Resources.parse(asked))
    path = ("kubepods", "pod1", "abc")
    wanted = {
        "memory.max": str(10 * MIB),
        "memory.swap.max": str(5 * MIB),
        "memory.low": "77",
        "cpu.weight": "1",
        "cpu.max": "50000 200000",
        "cpuset.cpus": "0",
        "pids.max": "9",
    }
    assert {file: kernel.read(path, file) for file in wanted} == wanted
    for depth in range(3):
        enabled = set(kernel.read(path[:depth], "cgroup.subtree_control").split())
        assert enabled == {"memory", "cpu", "pids", "cpuset", "io"}
    assert kernel.read(path, "cgroup.subtree_control").split() == []
    assert group.entrances() == [kernel.path(path, "cgroup.procs")]


def test_usage_in_version_2(v2: Hierarchy) -> None:
    group = v2.create("/abc", Resources(memory_limit=10, unified={"io.stat": "8:0 rbytes=1 wbytes=2\n8:1 rbytes=10"}))
    assert group.usage(99) == Usage(
        at=99,
        memory=4096,
        memory_limit=10,
        memory_peak=8192,
        anon=1,
        file=2,
        page_faults=4,
        major_faults=5,
        inactive_file=3,
        oom_kills=2,
        swap=6,
        cpu=30,
        cpu_user=20,
        cpu_system=10,
        throttle_periods=4,
        throttled_periods=3,
        throttled=2,
        processes=7,
        read_bytes=11,
        written_bytes=2,
    )
    assert group.oom_kills() == 2


def test_containers_without_limits_share_a_leaf_that_goes_with_the_last(kernel: Kernel, v2: Hierarchy) -> None:
    one, other = (v2.create(f"/pod/{name}", Resources.parse({"cpu": {"shares": 1024}})) for name in ("a", "b"))
    assert one.entrances() == other.entrances() == [kernel.path(("pod", "wasm-shared"), "cgroup.procs")]
    assert groups(kernel) == ["pod", "pod/wasm-shared"]
    assert one.delete()
    assert one.delete()
    assert groups(kernel) == ["pod", "pod/wasm-shared"]
    assert other.delete()
    assert groups(kernel) == []


def test_a_container_without_limits_does_not_keep_others_from_theirs(kernel: Kernel, v2: Hierarchy) -> None:
    free = v2.create("/pod/free", Resources())
    kernel.write(("pod", "wasm-shared"), "cgroup.procs", "11")
    limited = v2.create("/pod/limited", Resources(pids_limit=5))
    assert kernel.read(("pod", "limited"), "pids.max") == "5"
    late = v2.create("/pod/late", Resources())
    assert late.own, "the parent has controllers, so a leaf of its own costs no more"
    assert not free.own
    assert limited.delete()
    assert late.delete()
    assert groups(kernel) == ["pod", "pod/wasm-shared"]


def test_a_parent_with_processes_cannot_give_out_controllers(kernel: Kernel, v2: Hierarchy) -> None:
    kernel.make(("busy",))
    kernel.write(("busy",), "cgroup.procs", "11")
    with pytest.raises(FailedPrecondition, match=r"pids\.limit .*busy.*processes of its own"):
        v2.create("/busy/abc", Resources(pids_limit=5))
    assert groups(kernel) == ["busy"]


def test_a_controller_that_version_2_lacks(tmp_path: Path) -> None:
    v2 = Hierarchy(V2(kernel := Kernel(tmp_path, "cpu")))
    with pytest.raises(FailedPrecondition, match=r"memory\.limit needs the memory controller"):
        v2.create("/pod/abc", Resources(memory_limit=1))
    no_limit = Resources.parse({"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"shares": 2}})
    group = v2.create("/pod/abc", no_limit)
    assert kernel.read(("pod", "abc"), "cpu.weight") == "1"
    assert group.usage(1) is None, "nobody counts its memory"


def test_without_swap_accounting_only_no_swap_can_be_asked(kernel: Kernel, v2: Hierarchy) -> None:
    del (files := dict(Kernel.FILES["memory"]))["memory.swap.max"]
    kernel.FILES = Kernel.FILES | {"memory": files}
    v2.create("/a", Resources(memory_limit=10, memory_swap=10))
    v2.create("/b", Resources(memory_limit=10, memory_swap=-1))
    with pytest.raises(FailedPrecondition, match="swapaccount"):
        v2.create("/c", Resources(memory_limit=10, memory_swap=11))
    assert groups(kernel) == ["a", "b"]


def test_a_refused_limit_leaves_no_group(kernel: Kernel, v2: Hierarchy) -> None:
    with pytest.raises(InvalidArgument, match=r"'13'.*pod/abc/memory\.max"):
        v2.create("/pod/abc", Resources(memory_limit=13))
    assert groups(kernel) == []


def test_a_group_in_use_is_not_taken_over(kernel: Kernel, v2: Hierarchy) -> None:
    kernel.make(("abc",))
    kernel.write(("abc",), "cgroup.procs", "11")
    with pytest.raises(FailedPrecondition, match=r"abc: processes"):
        v2.create("/abc", Resources(pids_limit=5))
    assert kernel.pids(("abc",)) == [11]


def test_a_stale_empty_group_is_made_anew(kernel: Kernel, v2: Hierarchy) -> None:
    kernel.make(("abc",))
    kernel.write(("abc",), "cgroup.freeze", "1")
    v2.create("/abc", Resources(pids_limit=5))
    assert kernel.read(("abc",), "cgroup.freeze") == "0\n"


def test_update_is_all_or_nothing(kernel: Kernel, v2: Hierarchy) -> None:
    group = v2.create("/abc", Resources.parse({"memory": {"limit": 50, "swap": 50}, "cpu": {"quota": 5000}}))
    group.update(Resources(memory_swap=70, cpu_period=20000), [])
    assert kernel.read(("abc",), "memory.swap.max") == "20"
    assert kernel.read(("abc",), "cpu.max") == "5000 20000"
    with pytest.raises(InvalidArgument, match="'13'"):
        group.update(Resources(memory_limit=13, memory_swap=99), [])
    assert kernel.read(("abc",), "memory.swap.max") == "20"
    with pytest.raises(InvalidArgument, match="memory and swap together"):
        group.update(Resources(memory_swap=40), [])
    group.update(Resources.parse({"memory": {"limit": -1}, "cpu": {"quota": -1}}), [])
    assert [kernel.read(("abc",), file) for file in ("memory.max", "memory.swap.max")] == ["max", "max"]
    assert kernel.read(("abc",), "cpu.max") == "max"


def test_update_switches_on_what_a_new_limit_needs(kernel: Kernel, v2: Hierarchy) -> None:
    group = v2.create("/pod/abc", Resources(pids_limit=5))
    group.update(Resources(cpus="1"), [])
    assert kernel.read(("pod", "abc"), "cpuset.cpus") == "1"


def test_update_moves_a_container_without_limits_into_its_own_group(kernel: Kernel, v2: Hierarchy) -> None:
    group = v2.create("/pod/abc", Resources())
    for pid in ("11", "12"):
        kernel.write(("pod", "wasm-shared"), "cgroup.procs", pid)
    group.update(Resources(pids_limit=-1), [11])
    assert not group.own
    with pytest.raises(InvalidArgument, match="'13'"):
        group.update(Resources(memory_limit=13), [11])
    assert not group.own
    assert kernel.pids(("pod", "wasm-shared")) == [12, 11]
    group.update(Resources(memory_limit=14), [11])
    assert (group.pids(), kernel.pids(("pod", "wasm-shared"))) == ([11], [12])
    assert group.usage(1) is None, "what it had before is counted elsewhere"
    assert group.oom_kills() == 2
    assert not group.delete()
    kernel.write((), "cgroup.procs", "11")
    assert group.delete()


def test_freezing_wants_an_own_group(kernel: Kernel, v2: Hierarchy) -> None:
    group = v2.create("/pod/abc", Resources())
    kernel.write(("pod", "wasm-shared"), "cgroup.procs", "11")
    with pytest.raises(FailedPrecondition, match="shared"):
        group.freeze()
    group.ensure_own([11])
    group.freeze()
    assert kernel.read(("pod", "abc"), "cgroup.freeze") == "1"
    assert not group.frozen, "the kernel has not said so yet"
    kernel.write(("pod", "abc"), "cgroup.events", "populated 1\nfrozen 1\n")
    assert group.frozen
    group.thaw()
    assert kernel.read(("pod", "abc"), "cgroup.freeze") == "0"


def test_a_restarted_supervisor_finds_groups_and_what_they_hold(kernel: Kernel, v2: Hierarchy) -> None:
    states = [
        v2.create(f"/pod/{name}", resources).state for name, resources in (("a", Resources()), ("b", Resources(5)))
    ]
    again = Hierarchy(V2(kernel))
    free, limited = map(again.attach, states)
    assert (free.own, limited.own, limited.exists) == (False, True, True)
    assert [each.state for each in (free, limited)] == states
    assert limited.delete()
    assert not limited.exists
    assert groups(kernel) == ["pod", "pod/wasm-shared"]
    assert free.delete()
    assert groups(kernel) == []


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"version":2,"path":"/../a","own":[],"held":[],"counted":true}',
        '{"version":2,"path":"/a","own":[],"held":[["unified","x"]],"counted":true}',
    ],
)
def test_damaged_states_are_refused(v2: Hierarchy, state: str) -> None:
    with pytest.raises(InvalidArgument):
        v2.attach(state)


def test_states_of_another_version_are_refused(v2: Hierarchy, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    state = v1(tmp_path / "v1").create("/a", Resources()).state
    with pytest.raises(FailedPrecondition, match="other hierarchies"):
        v2.attach(state)


def test_a_want_of_descriptors_does_not_end_the_denial_of_devices(
    kernel: Kernel, v2: Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 77, 0]

    def bpf(command: int, attributes: bytes) -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(devices, "_bpf", bpf)
    limits = Resources.parse({"pids": {"limit": 9}})
    before = groups(kernel)
    with pytest.raises(OutOfDescriptors):
        v2.create("/above/it/a", limits)
    assert groups(kernel) == before
    v2.create("/above/it/a", limits)
    assert answers == []


@pytest.mark.parametrize("file", ["cgroup.subtree_control", "pids.max"])
def test_a_want_of_descriptors_is_no_fault_of_a_limit(
    kernel: Kernel, v2: Hierarchy, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    v2.create("/above/a", Resources.parse({"pids": {"limit": 9}}))
    read, write = Tree.read, Kernel.write

    def scarce_read(tree: Tree, group: GroupPath, name: str) -> str:
        return fail() if name == file else read(tree, group, name)

    def scarce_write(tree: Kernel, group: GroupPath, name: str, text: str) -> None:
        return fail() if name == file else write(tree, group, name, text)

    def fail() -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = groups(kernel)
    monkeypatch.setattr(Kernel, "write", scarce_write)
    with pytest.raises(OutOfDescriptors):
        v2.create("/other/b", Resources.parse({"pids": {"limit": 9}}))
    monkeypatch.setattr(Kernel, "read", scarce_read)
    with pytest.raises(OutOfDescriptors):
        v2.plan("/above/b", Resources()) and v2.create("/above/b", Resources.parse({"pids": {"limit": 9}}))
    monkeypatch.undo()
    assert groups(kernel) == before
