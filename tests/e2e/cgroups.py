"""The control groups of pods, as the kubelet makes and removes them; of both versions."""

from __future__ import annotations

import time
from pathlib import Path


def cgroups(name: str) -> list[Path]:
    """The control groups of this name, in every hierarchy there is, and those below; innermost first."""
    root, name = Path("/sys/fs/cgroup"), name.lstrip("/")
    tops = [path for path in (root / name, *root.glob(f"*/{name}")) if path.is_dir()]
    found = {path for top in tops for path in (top, *top.rglob("*/"))}
    return sorted(found, key=lambda path: -len(path.parts))


def make_cgroup(name: str) -> None:
    """Make a control group for a pod, as the kubelet does: containerd 2.1 reads a pod's statistics there."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        group = root
        for part in name.strip("/").split("/"):
            for controller in ("cpu", "memory", "pids"):
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
            group /= part
            group.mkdir(exist_ok=True)
    else:
        for hierarchy in ("cpu", "cpuacct", "memory", "pids"):
            Path(f"{root}/{hierarchy}{name}").mkdir(parents=True, exist_ok=True)


def remove_cgroups(name: str, seconds: float = 5) -> None:
    """Remove control groups, as the kubelet does with its pods': again until the processes in them are gone."""
    deadline = time.monotonic() + seconds
    while name and (left := cgroups(name)) and time.monotonic() < deadline:
        for path in left:
            try:
                path.rmdir()
            except OSError:
                time.sleep(0.01)
