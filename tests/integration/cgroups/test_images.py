"""Memory of images is the sandboxer's: it is charged to the daemon's own group, and not to a container's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ...e2e.cgroups import remove_cgroups
from ...harness.compiled import Node
from ..test_images_of_modules import node_row, started_from_image
from .groups import NAME, ROOT, needs_root, needs_v1

pytestmark = [needs_root, needs_v1]


@pytest.fixture
def daemons_group() -> Iterator[Path]:
    """A group of version 1 for the daemon, and its parent, below which containers have theirs."""
    group = ROOT / "memory" / NAME / "daemon"
    group.mkdir(parents=True)
    yield group
    for pid in group.joinpath("cgroup.procs").read_text().split():
        (ROOT / "memory" / "cgroup.procs").write_text(pid)
    remove_cgroups(f"/{NAME}")


def shared_memory(group: Path) -> int:
    """Bytes of memory files that are charged to a group (memory.stat)."""
    numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(numbers["shmem"])


def test_the_memory_of_an_image_is_charged_to_the_daemon(daemons_group: Path, start: Callable[..., Node]) -> None:
    node = start("--aot", "auto", "--engine", "auto")  # images are WasmEdge's
    for process in (node.daemon.process, *node.daemon.helpers()):
        assert process is not None
        (daemons_group / "cgroup.procs").write_text(str(process.pid))
    before = shared_memory(daemons_group)
    container = started_from_image(node, "sleep", cgroup=f"/{NAME}/pod", limit=64 << 20)
    memory = node_row(node)["memory"]
    assert memory > 100 << 10
    assert shared_memory(daemons_group) - before >= memory
    group = ROOT / "memory" / NAME / "pod"
    assert str(container.pid) in (group / "cgroup.procs").read_text().split()
    assert shared_memory(group) < memory // 4
