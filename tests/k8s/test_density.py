"""A deployment scaled to 200 replicas and back: its time and memory, beside crun with WasmEdge on the same node."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.compare import ANNOTATIONS
from tests.e2e.containerd import tools

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, deployment

REPLICAS = int(os.environ.get("WASM_SANDBOXER_REPLICAS", "200"))
SECONDS = 900


@dataclass(frozen=True, slots=True)
class Cost:
    """``up`` and ``down`` in seconds; ``memory`` in KiB a pod, of the whole node: kubelet and containerd included."""

    up: float
    down: float
    memory: float


def anonymous() -> int:
    """What the node's memory is spent on, but for files: KiB."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(lines[name].split()[0]) for name in ("AnonPages", "PageTables", "Slab", "KernelStack"))


def measure(cluster: Cluster, kubectl: Kubectl, handler: str) -> Cost:
    """Scale from one replica, which is there already and tells nothing, to all, and to none."""
    replicas = deployment("d", 1, container("sleep"), runtimeClassName=handler)
    replicas["spec"]["template"]["metadata"]["annotations"] = ANNOTATIONS
    kubectl.apply(replicas)
    kubectl.run("rollout", "status", "deployment/d", "--timeout=120s")
    before, began = anonymous(), time.monotonic()
    kubectl.run("scale", "deployment/d", f"--replicas={REPLICAS}")
    kubectl.run("rollout", "status", "deployment/d", f"--timeout={SECONDS}s", seconds=SECONDS + 30)
    up = time.monotonic() - began
    memory = (anonymous() - before) / (REPLICAS - 1)
    began = time.monotonic()
    kubectl.run("scale", "deployment/d", "--replicas=0")
    cluster.eventually(lambda: not kubectl.run("get", "pods", "-o", "name"), "no pod is left", SECONDS)
    cost = Cost(up, time.monotonic() - began, memory)
    print(f"{handler}: {REPLICAS} pods: up {cost.up:.1f} s, down {cost.down:.1f} s, {cost.memory:.0f} KiB a pod")
    return cost


@pytest.fixture
def crun(cluster: Cluster) -> str:
    """A RuntimeClass of crun with WasmEdge."""
    tools(peers=True)
    cluster.load_pause()
    cluster.kubectl.apply(
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "crun"}, "handler": "crun"}
    )
    return "crun"


def test_two_hundred_replicas_cost_less_than_with_crun(cluster: Cluster, kubectl: Kubectl, crun: str) -> None:
    cluster.image("sleep")
    ours = measure(cluster, kubectl, "wasm")
    theirs = measure(cluster, kubectl, crun)
    assert ours.memory < theirs.memory
    assert ours.up < theirs.up
