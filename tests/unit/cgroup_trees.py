"""Control group hierarchies on plain files."""

from __future__ import annotations

import errno
from pathlib import Path

from supervisor.cgroups import Hierarchy
from supervisor.cgroups.tree import Tree
from supervisor.cgroups.v1 import V1


def v1(root: Path) -> Hierarchy:
    for name in ("cpu,cpuacct", "memory"):
        (root / name).mkdir()
    return Hierarchy(V1({key: str(root / name) for name in ("cpu,cpuacct", "memory") for key in name.split(",")}))


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
