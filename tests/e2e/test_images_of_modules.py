"""Images of loaded modules under containerd, where each container has an overlay of its own for a root."""

from __future__ import annotations

import time
from pathlib import Path

from .node import Container, Node
from .test_containers import pid_of

SECONDS = 60


def imaged(container: Container) -> bool:
    return "/memfd:image" in Path(f"/proc/{pid_of(container)}/maps").read_text()


def root_device(container: Container, node: Node) -> str:
    """What containerd has mounted as a container's root."""
    place = f"/{container.id}/rootfs "
    return next(line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines() if place in line)


def test_containers_of_one_image_share_what_was_loaded_once(node: Node) -> None:
    """The module is found again by its bytes, whichever overlay shows them."""
    found: list[Container] = []
    deadline = time.monotonic() + SECONDS
    with node.pod() as one, node.pod() as other:
        while len(found) < 2 and time.monotonic() < deadline:
            container = (one, other)[len(found)].run("sleep", "3600")
            if imaged(container):
                found.append(container)
            else:
                node.cri.stop(container.id)
        assert len(found) == 2
        assert len({root_device(each, node) for each in found}) == 2
        files = {
            line.split()[4]
            for each in found
            for line in Path(f"/proc/{pid_of(each)}/maps").read_text().splitlines()
            if "/memfd:image" in line
        }
        assert len(files) == 1
