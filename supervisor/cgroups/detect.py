"""Detection of a host's version of control groups and its controllers."""

from __future__ import annotations

import os

from .hierarchy import Hierarchy
from .tree import Tree
from .v1 import CONTROLLERS, V1
from .v2 import AVAILABLE, V2


def detect(root: str = "/sys/fs/cgroup", mounts: str = "/proc/self/mountinfo", owner: str = "") -> Hierarchy:
    """Version 2 where ``root`` is its hierarchy, and else version 1 with what is mounted in ``root``.

    A version 2 tree beside version 1's ("hybrid") is left alone: its controllers are elsewhere. A host with
    neither has no controllers: containers without limits run there. ``owner`` marks the groups that are made there.
    Raises ``OSError``.
    """
    root = os.path.normpath(root)
    if os.path.exists(os.path.join(root, AVAILABLE)):  # every group of version 2 has it, and none of version 1
        return Hierarchy(V2(Tree(root, owner)))
    with open(mounts, encoding="utf-8", errors="surrogateescape") as stream:
        return Hierarchy(V1(v1_mounts(stream.read(), root), owner))


def v1_mounts(mountinfo: str, root: str) -> dict[str, str]:
    """Find where in the folder ``root`` each controller of version 1 is mounted (proc_pid_mountinfo(5))."""
    found: dict[str, str] = {}
    for line in filter(None, mountinfo.split("\n")):
        mount, _, filesystem = line.partition(" - ")
        # By single spaces: a source may be empty, and names have other white space as it is.
        place = mount.split(" ")[4]
        kind, _, options = filesystem.split(" ", 2)
        if kind == "cgroup" and os.path.dirname(place) == root:
            for controller in options.split(","):
                if controller in CONTROLLERS:
                    found.setdefault(controller, place)
    return found
