"""Control groups: version 1, as far as it can be told without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition
from supervisor.cgroups import Resources, detect
from supervisor.cgroups.detect import v1_mounts
from supervisor.cgroups.tree import Setting, Tree, apply

from .cgroup_trees import v1

MIB = 1 << 20


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


def test_other_mounts_may_be_called_anything() -> None:
    strange = "37 23 0:34 / /mnt/a\u3000b\u2028c rw - tmpfs  rw\n38 37 0:35 /\xa0x /d rw - ext4 /dev/x rw\n"
    assert v1_mounts(strange + MOUNTS, "/cg") == v1_mounts(MOUNTS, "/cg")


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
