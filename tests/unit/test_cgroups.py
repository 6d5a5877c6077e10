"""Control groups: what a spec asks for, where it leads, and version 2's rules on a tree that imitates the kernel's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.interface import Usage
from supervisor.cgroups import Hierarchy, Resources, detect, parse_path
from supervisor.cgroups.detect import v1_mounts
from supervisor.cgroups.resources import cpu_weight
from supervisor.cgroups.tree import Setting, Tree, apply
from supervisor.cgroups.v1 import V1
from supervisor.cgroups.v2 import V2
from supervisor.lifecycle import usage

MIB = 1 << 20


# Resources


def test_all_members_are_read() -> None:
    parsed = Resources.parse(
        {
            "memory": {"limit": 64, "swap": 96, "reservation": 32, "swappiness": 1},
            "cpu": {"shares": 512, "quota": 5000, "period": 10000, "cpus": "0-1,3", "mems": "0"},
            "pids": {"limit": 7},
            "unified": {"memory.high": "50"},
            "devices": [{"allow": False}],
        }
    )
    assert parsed == Resources(64, 96, 32, 512, 5000, 10000, "0-1,3", "0", 7, {"memory.high": "50"})
    assert parsed.limited


@pytest.mark.parametrize(
    ("resources", "limited"),
    [
        ({}, False),
        ({"memory": None, "cpu": {"cpus": ""}}, False),
        ({"memory": {"limit": -1, "swap": -1, "reservation": 0}}, False),
        ({"cpu": {"shares": 1024, "quota": -1, "period": 100000}, "pids": {"limit": 0}}, False),
        ({"pids": {"limit": -1}}, False),
        ({"cpu": {"shares": 2}}, True),
        ({"cpu": {"mems": "0"}}, True),
        ({"memory": {"reservation": 1}}, True),
        ({"unified": {"io.weight": "10"}}, True),
    ],
)
def test_only_real_limits_need_a_group(resources: dict[str, Any], limited: bool) -> None:
    assert Resources.parse(resources).limited is limited


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"memory": {"limit": True}}, "memory.limit True"),
        ({"memory": {"limit": "64m"}}, "memory.limit '64m'"),
        ({"memory": {"limit": -2}}, "memory.limit -2"),
        ({"memory": {"limit": 1 << 63}}, "memory.limit 9223372036854775808"),
        ({"memory": {"limit": 2.5}}, "memory.limit 2.5"),
        ({"memory": {"limit": 10, "swap": 9}}, "memory.swap 9"),
        ({"memory": {"limit": -1, "swap": 9}}, "memory.swap 9"),
        ({"memory": []}, "memory []"),
        ({"cpu": {"shares": -1}}, "cpu.shares -1"),
        ({"cpu": {"period": -1}}, "cpu.period -1"),
        ({"cpu": {"cpus": "0,"}}, "cpu.cpus '0,'"),
        ({"cpu": {"cpus": "0\n"}}, r"cpu.cpus '0\n'"),
        ({"cpu": {"mems": 0}}, "cpu.mems 0"),
        ({"pids": {"limit": -5}}, "pids.limit -5"),
        ({"unified": {"memory.max": 5}}, "unified[memory.max] 5"),
        ({"unified": {"../memory.max": "5"}}, "unified '../memory.max'"),
        ({"unified": {"cgroup.procs": "1"}}, "unified 'cgroup.procs'"),
    ],
)
def test_nonsense_is_refused_by_name_and_value(resources: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        Resources.parse(resources)
    assert said in str(refusal.value)


def test_no_memory_limit_lifts_that_of_swap_too() -> None:
    assert Resources.parse({"memory": {"limit": -1}}).memory_swap == -1


@pytest.mark.parametrize(("shares", "weight"), [(1, 1), (2, 1), (1024, 100), (262144, 10000), (1 << 40, 10000)])
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_more_shares_are_never_less_weight(some: int, other: int) -> None:
    assert 1 <= cpu_weight(min(some, other)) <= cpu_weight(max(some, other)) <= 10000


# Paths


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/kubepods/pod1/abc", ["kubepods", "pod1", "abc"]),
        ("relative//./abc", ["relative", "abc"]),
        ("/odd:but:plain", ["odd:but:plain"]),
        (
            "kubepods-besteffort-pod1.slice:cri-containerd:abc",
            [
                "kubepods.slice",
                "kubepods-besteffort.slice",
                "kubepods-besteffort-pod1.slice",
                "cri-containerd-abc.scope",
            ],
        ),
        ("-.slice:runc:abc", ["runc-abc.scope"]),
        (":runc:abc", ["system.slice", "runc-abc.scope"]),
        ("user.slice::abc", ["user.slice", "abc.scope"]),
    ],
)
def test_path_forms(path: str, names: list[str]) -> None:
    assert list(parse_path(path)) == names


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/./",
        "/a/../b",
        "..",
        "/a\0b",
        "/a\nb",
        "/\ud800",
        "/" + "x" * 256,
        "a/b.slice:p:n",
        "a.slice:p:../n",
        "a--b.slice:p:n",
        "-a.slice:p:n",
        "a:p:n",
        "a.slice:p:",
        "/a/wasm-shared",
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.cgroupsPath"):
        parse_path(path)


@given(st.text(alphabet=st.sampled_from("ab./:-\0\n.slice"), max_size=30))
def test_no_path_leads_out(path: str) -> None:
    try:
        names = parse_path(path)
    except InvalidArgument:
        return
    assert names
    assert os.path.normpath("/root/" + "/".join(names)) == "/root/" + "/".join(names)


# Trees


def test_no_link_is_followed_and_nothing_is_left(tmp_path: Path) -> None:
    tree, outside = Tree(str(tmp_path / "tree")), tmp_path / "outside"
    (tmp_path / "tree" / "a").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "tree" / "a" / "link").symlink_to(outside)
    with pytest.raises(OSError, match="link"):
        tree.make(("a", "link", "b"))
    (tmp_path / "tree" / "file").touch()
    with pytest.raises(NotADirectoryError):
        tree.make(("file", "b"))
    assert not list(outside.iterdir())
    with pytest.raises(OSError, match="too long"):
        tree.make(("a", "new", "newer", "x" * 300))
    assert not (tmp_path / "tree" / "a" / "new").exists()
    assert tree.make(("a", "b", "c")) == [("a", "b"), ("a", "b", "c")]


def test_settings_are_taken_back_when_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("old\n")
    (tmp_path / "second").mkdir()
    tree = Tree(str(tmp_path))
    with pytest.raises(FailedPrecondition, match="second"):
        apply([Setting(tree, (), "first", "new"), Setting(tree, (), "second", "1")])
    assert (tmp_path / "first").read_text() == "old\n"


# Version 1, as far as it can be told without a kernel


MOUNTS = """\
31 23 0:28 / /cg rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /cg/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /cg/memory rw - cgroup cgroup rw,memory
34 31 0:31 / /elsewhere/pids rw - cgroup cgroup rw,pids
35 31 0:32 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd
36 31 0:33 / /cg/unified rw - cgroup2 cgroup2 rw
"""


def test_mounted_controllers() -> None:
    together = "/cg/cpu,cpuacct"
    assert v1_mounts(MOUNTS, "/cg") == {"cpu": together, "cpuacct": together, "memory": "/cg/memory"}


def test_a_host_without_control_groups(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    hierarchy = detect(str(tmp_path), mounts=str(tmp_path / "mountinfo"))
    assert (hierarchy.version, hierarchy.controllers) == (1, frozenset())
    group = hierarchy.create("/pod/abc", Resources.parse({"memory": {"limit": -1}}))
    assert group.entrances() == []
    with pytest.raises(FailedPrecondition, match=r"memory\.limit needs the memory controller.*mount"):
        hierarchy.create("/pod/abc", Resources(memory_limit=1))
    assert group.oom_kills() == 0
    with pytest.raises(FailedPrecondition, match="freezer"):
        group.ensure_own([1])


def v1(root: Path) -> Hierarchy:
    for name in ("cpu,cpuacct", "memory"):
        (root / name).mkdir()
    return Hierarchy(V1({key: str(root / name) for name in ("cpu,cpuacct", "memory") for key in name.split(",")}))


def test_co_mounted_controllers_are_joined_once(tmp_path: Path) -> None:
    group = v1(tmp_path).create("/pod/abc", Resources())
    assert group.entrances() == [f"{tmp_path}/{tree}/pod/tasks" for tree in ("cpu,cpuacct", "memory")]


def test_a_shared_group_is_not_counted_as_the_containers(tmp_path: Path) -> None:
    group = v1(tmp_path).create("/pod/abc", Resources())
    assert (group.own, group.usage(1), group.pids(), group.oom_kills(), group.frozen) == (False, None, None, 0, False)


def memory_settings(root: Path, now: int, with_swap: int | None, asked: dict[str, int]) -> list[tuple[str, str]]:
    layout = v1(root).layout
    (root / "memory" / "memory.limit_in_bytes").write_text(f"{now}\n")
    if with_swap is not None:
        (root / "memory" / "memory.memsw.limit_in_bytes").write_text(f"{with_swap}\n")
    settings = layout.settings((), frozenset({"memory"}), Resources.parse({"memory": asked}))
    return [
        (setting.file.removeprefix("memory.").removesuffix("limit_in_bytes"), setting.value) for setting in settings
    ]


NONE = 9223372036854771712


@pytest.mark.parametrize(
    ("now", "with_swap", "asked", "order"),
    [
        (NONE, NONE, {"limit": 10, "swap": 10}, [("", "10"), ("memsw.", "10")]),
        (10, 20, {"limit": 30, "swap": 40}, [("memsw.", "40"), ("", "30")]),
        (30, 40, {"limit": 10, "swap": 20}, [("", "10"), ("memsw.", "20")]),
        (10, 10, {"limit": -1}, [("memsw.", "-1"), ("", "-1")]),
        (10, 15, {"limit": 30}, [("memsw.", "35"), ("", "30")]),
        (30, 35, {"limit": 10}, [("", "10"), ("memsw.", "15")]),
        (NONE, NONE, {"limit": 10}, [("", "10")]),
        (NONE, None, {"limit": 10, "swap": 10}, [("", "10")]),
        (NONE, None, {"limit": 10, "swap": -1}, [("", "10")]),
        (10, None, {"limit": -1}, [("", "-1")]),
    ],
)
def test_memory_is_never_limited_above_memory_and_swap(
    tmp_path: Path, now: int, with_swap: int | None, asked: dict[str, int], order: list[tuple[str, str]]
) -> None:
    assert memory_settings(tmp_path, now, with_swap, asked) == order


def test_swap_cannot_be_limited_without_swap_accounting(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="swapaccount=1"):
        memory_settings(tmp_path, NONE, None, {"limit": 10, "swap": 20})


def test_version_2s_files_are_not_for_version_1(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cgroup v2"):
        v1(tmp_path).create("/abc", Resources(unified={"memory.high": "1"}))


# Version 2


class Kernel(Tree):
    """A version 2 hierarchy's rules, on plain files."""

    FILES = {  # noqa: RUF012
        "memory": {
            "memory.max": "max\n",
            "memory.low": "0\n",
            "memory.current": "4096\n",
            "memory.peak": "8192\n",
            "memory.stat": "anon 1\nfile 2\ninactive_file 3\npgfault 4\npgmajfault 5\n",
            "memory.events": "low 0\noom 3\noom_kill 2\n",
            "memory.swap.max": "max\n",
            "memory.swap.current": "6\n",
        },
        "cpu": {"cpu.weight": "100\n", "cpu.max": "max 100000\n"},
        "pids": {"pids.max": "max\n", "pids.current": "7\n"},
        "io": {"io.stat": "8:0 rbytes=1 wbytes=2 rios=3\n8:16 rbytes=10 wbytes=20 rios=30\n"},
        "cpuset": {"cpuset.cpus": "\n", "cpuset.mems": "\n"},
    }
    CPU_STAT = "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n"

    def __init__(self, root: Path, controllers: str = "cpuset cpu io memory pids") -> None:
        super().__init__(str(root))
        self._populate((), controllers.split())

    def _put(self, group: tuple[str, ...], file: str, text: str) -> None:
        Path(self.path(group, file)).write_text(text)

    def _populate(self, group: tuple[str, ...], controllers: list[str]) -> None:
        self._put(group, "cgroup.controllers", " ".join(controllers) + "\n")
        for file, text in (
            ("cgroup.subtree_control", "\n"),
            ("cgroup.procs", ""),
            ("cgroup.freeze", "0\n"),
            ("cgroup.events", "populated 0\nfrozen 0\n"),
            ("cpu.stat", self.CPU_STAT),
        ):
            if not self.has(group, file):
                self._put(group, file, text)
        for controller in controllers if group else ():
            for file, text in self.FILES.get(controller, {}).items():
                if not self.has(group, file):
                    self._put(group, file, text)

    def make(self, group: tuple[str, ...]) -> list[tuple[str, ...]]:
        made = super().make(group)
        for each in made:
            self._populate(each, self.read(each[:-1], "cgroup.subtree_control").split())
        return made

    def remove(self, group: tuple[str, ...]) -> bool:
        folder = Path(self.path(group))
        if folder.exists() and not self.pids(group) and not any(each.is_dir() for each in folder.iterdir()):
            for file in folder.iterdir():
                file.unlink()
        return super().remove(group)

    def write(self, group: tuple[str, ...], file: str, text: str) -> None:
        enabled = self.read(group, "cgroup.subtree_control").split()
        if file == "cgroup.procs":
            if group and enabled:
                raise OSError(errno.EBUSY, "Device or resource busy")
            for procs in Path(self.root).rglob("cgroup.procs"):
                procs.write_text("".join(pid + "\n" for pid in procs.read_text().split() if pid != text))
            self._put(group, file, self.read(group, file) + text + "\n")
        elif file == "cgroup.subtree_control":
            if text[1:] not in self.read(group, "cgroup.controllers").split():
                raise OSError(errno.ENOENT, "No such file or directory")
            if group and self.pids(group):
                raise OSError(errno.EBUSY, "Device or resource busy")
            self._put(group, file, " ".join({*enabled, text[1:]}) + "\n")
            for below in Path(self.path(group)).iterdir():
                if below.is_dir():
                    self._populate((*group, below.name), [*enabled, text[1:]])
        elif file == "memory.max" and text == "13":
            raise OSError(errno.EINVAL, "Invalid argument")
        else:
            super().write(group, file, text)


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


# Usage without a group


def test_total_of_limits_is_none_where_one_has_none() -> None:
    limited, free = Usage(at=1, memory=5, memory_limit=10, process_limit=1), Usage(at=2, memory=7, process_limit=2)
    assert usage.total([limited, free], 9) == Usage(at=9, memory=12, process_limit=3)
    assert usage.total([], 9) == Usage(at=9)


def test_usage_of_processes() -> None:
    seen = usage.of_processes([os.getpid(), 1 << 22], 3)
    assert (seen.at, seen.processes) == (3, 1)
    assert seen.cpu == seen.cpu_user + seen.cpu_system > 0
    assert seen.memory >= seen.anon > MIB
