"""Statistics and limits, as the kubelet asks for them."""

from __future__ import annotations

import time

from . import cri_pb2 as pb
from .cgroups import cgroups
from .node import Node, Pod


def test_a_containers_statistics_are_its_own(pod: Pod) -> None:
    busy, idle = pod.run("spin"), pod.run("sleep", "3600")
    first = pod.node.cri.stats(busy.id)
    assert first.attributes.id == busy.id
    assert first.memory.working_set_bytes.value > 0
    assert first.memory.usage_bytes.value >= first.memory.working_set_bytes.value

    deadline = time.monotonic() + 30
    while True:  # the kernel counts in ticks
        second = pod.node.cri.stats(busy.id)
        used = second.cpu.usage_core_nano_seconds.value - first.cpu.usage_core_nano_seconds.value
        if used > 100_000_000:
            break
        assert time.monotonic() < deadline, second
        time.sleep(0.05)
    assert second.cpu.timestamp > first.cpu.timestamp
    assert pod.node.cri.stats(idle.id).cpu.usage_core_nano_seconds.value < used


def test_the_list_of_statistics_has_all_containers_of_a_pod(pod: Pod) -> None:
    containers = {pod.run("sleep", "3600").id for _ in range(3)}
    listed = pod.node.cri.all_stats(pod.id)
    assert {each.attributes.id for each in listed} == containers
    assert all(each.memory.working_set_bytes.value > 0 for each in listed)


def test_a_pods_statistics_cover_its_containers(pod: Pod) -> None:
    containers = [pod.run("sleep", "3600") for _ in range(2)]
    stats = pod.node.cri.pod_stats(pod.id)
    assert stats.attributes.id == pod.id
    assert stats.linux.process.process_count.value >= 2
    assert {each.attributes.id for each in stats.linux.containers} == {each.id for each in containers}
    parts = [each.memory.working_set_bytes.value for each in stats.linux.containers]
    # Not compared with each other: what a worker wrote before it joined its group is charged to the forkserver's.
    assert stats.linux.memory.working_set_bytes.value > 0
    assert all(0 < part < 32 << 20 for part in parts)


def limits(node: Node, pod: Pod) -> set[str]:
    """Memory limits of the pod's control groups, in bytes."""
    found = set()
    for group in cgroups(f"{node.cgroup}/pod{pod.config.metadata.uid}"):
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (group / name).exists():
                found.add((group / name).read_text().strip())
    return found


def test_a_limit_reaches_the_control_group_and_can_be_changed_while_it_runs(node: Node, pod: Pod) -> None:
    container = pod.create("sleep", "3600", memory=96 << 20)
    container.start()
    assert str(96 << 20) in limits(node, pod)

    node.cri.update(container.id, pb.LinuxContainerResources(memory_limit_in_bytes=80 << 20))
    assert str(80 << 20) in limits(node, pod)
    assert str(96 << 20) not in limits(node, pod)
    assert node.cri.status(container.id).resources.linux.memory_limit_in_bytes == 80 << 20
    assert node.cri.status(container.id).state == pb.CONTAINER_RUNNING


def test_no_control_group_is_left_of_a_removed_container(node: Node) -> None:
    with node.pod() as pod:
        pod.run("hello").wait()
        own = f"{node.cgroup}/pod{pod.config.metadata.uid}"
    inner = [group for group in cgroups(own) if not str(group).endswith(own)]
    assert inner == []
