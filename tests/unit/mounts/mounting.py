"""Plans of mounts, and the folders that a process is given by them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox_api.interface import Mount
from supervisor.host import linux
from supervisor.oci.mount_tree import build
from supervisor.oci.rootfs import MountPlan, mount, plan, unmount
from supervisor.oci.spec import Bind, ProcessSpec, Spec, Tmpfs


def mounts(below: Path) -> list[str]:
    """Mount points below a folder, or it itself, relative to it: once for each mount."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(os.path.relpath(point, below) for point in points if Path(point).is_relative_to(below))


def take_down(folder: Path) -> list[str]:
    """Unmount all that is mounted there; returns what that was."""
    found = []
    while left := mounts(folder):
        found.append(left[-1])
        linux.detach(str(folder / left[-1]))
    return found


def planned(
    folder: Path, *binds: Bind, rootfs: Sequence[Mount] = (), tmpfs: Sequence[Tmpfs] = (), **members: Any
) -> MountPlan:
    """The plan for a container with these mounts, and other members of its spec."""
    spec = Spec(ProcessSpec(("a",)), "rootfs", binds=binds, tmpfs=tuple(tmpfs), **members)
    return plan(spec, str(folder / "rootfs"), rootfs, str(folder / "own"), str(folder / "mounting"))


@contextmanager
def seen(folder: Path, todo: MountPlan) -> Iterator[dict[str, Path]]:
    """Give these mounts to a process, by its names for them; none of them has a name on the host."""
    before = mounts(folder)
    mount(todo)
    places = build(todo)
    try:
        assert set(mounts(folder)) - set(before) <= {
            "own/rootfs",
            *(f"own/{number}" for number in range(len(todo.tmpfs))),
        }
        yield {place.path: Path(f"/proc/self/fd/{place.fd}") for place in places}
    finally:
        for place in places:
            os.close(place.fd)
        unmount(todo)
        assert mounts(folder) == before
