"""Limits of pods, as the cluster sees them."""

from __future__ import annotations

from typing import Any

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, pod


def ended(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """How a pod's one container ended."""
    path = "jsonpath={.status.containerStatuses[0].state.terminated}"
    kubectl.run("wait", f"pod/{name}", f"--for={path}", "--timeout=60s")
    state: dict[str, Any] = kubectl.get("pod", name)["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def test_a_container_that_its_limit_killed_is_oom_killed(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("fill")
    memory = {"name": "v", "emptyDir": {"medium": "Memory"}}
    filling = container(
        "fill",
        "/shm/file",
        volumeMounts=[{"name": "v", "mountPath": "/shm"}],
        resources={"limits": {"memory": "32Mi", "cpu": "1"}},
    )
    kubectl.apply(pod("p", filling, volumes=[memory]))
    assert (ended(kubectl, "p")["exitCode"], ended(kubectl, "p")["reason"]) == (137, "OOMKilled")


def test_a_guest_that_takes_all_of_its_limit_is_refused_and_not_killed(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("eat")
    kubectl.apply(pod("p", container("eat", resources={"limits": {"memory": "64Mi", "cpu": "1"}})))
    assert (ended(kubectl, "p")["exitCode"], ended(kubectl, "p")["reason"]) == (0, "Completed")
