"""The harness itself: what it starts, it takes down."""

from __future__ import annotations

import os
from pathlib import Path

from . import cri_pb2 as pb
from .cgroups import cgroups
from .containerd import mounts_below, processes_of
from .node import Node


def test_a_node_leaves_nothing_behind() -> None:
    outside = [Path("/run/containerd"), Path("/var/lib/containerd"), Path("/opt/containerd"), Path("/run/nri")]
    before = [path.exists() for path in outside]
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    with Node() as node:
        folder, cgroup = node.sandboxer.folder, node.cgroup
        for network in (False, True):
            config = node.pod_config(network)
            pod = node.cri.run_pod(config, "wasm")
            image = pb.ImageSpec(image=node.image("sleep"))
            container = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="left"), image=image)
            node.cri.start(node.cri.create(pod, container, config))
        assert len(node.sandboxer.workers()) == 2

    assert not os.path.lexists(folder)
    assert processes_of(folder) == []
    assert mounts_below(folder) == []
    assert cgroups(cgroup) == []
    assert [path.exists() for path in outside] == before
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding
