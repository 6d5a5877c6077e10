"""Limits of pods, as the cluster sees them."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from typing import Any

from supervisor.oci.wasi import max_pages

from .cluster import NODE, Cluster
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


def test_the_summary_has_a_pods_network_and_memory(cluster: Cluster, kubectl: Kubectl) -> None:
    """By the engine, which looks into the pod's own network: there is no pause process that cAdvisor could."""
    cluster.image("web")
    kubectl.apply(pod("p", container("web", "8080", ports=[{"containerPort": 8080}])))
    kubectl.wait("pod/p", "condition=Ready")
    with kubectl.forward("pod/p", 8080) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        answer.read()

    def summary() -> dict[str, Any]:
        told = json.loads(kubectl.run("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/stats/summary"))
        found: list[dict[str, Any]] = [each for each in told["pods"] if each["podRef"]["name"] == "p"]
        return found[0] if found else {}

    cluster.eventually(lambda: summary().get("network", {}).get("rxBytes", 0) > 0, "its network is told of")
    told = summary()
    assert told["network"]["name"] == "eth0"
    assert told["containers"][0]["memory"]["workingSetBytes"] > 0


def test_a_limit_that_is_raised_in_place_is_the_guests_at_once(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("grow")
    limits = {"limits": {"memory": "32Mi", "cpu": "500m"}}
    kubectl.apply(pod("p", container("grow", resources=limits, stdin=True)))
    kubectl.wait("pod/p", "condition=Ready")
    more = {"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "96Mi"}}}]}}
    kubectl.run("patch", "pod", "p", "--subresource=resize", "-p", json.dumps(more))
    allocated = "{.status.containerStatuses[0].resources.limits.memory}"
    cluster.eventually(
        lambda: kubectl.run("get", "pod", "p", "-o", f"jsonpath={allocated}") == "96Mi", "the limit is raised"
    )
    grown = subprocess.run(kubectl.command("attach", "-i", "p"), input="\n", capture_output=True, text=True, timeout=60)
    assert str(max_pages(96 << 20)) in grown.stdout.split(), grown
    assert kubectl.get("pod", "p")["status"]["containerStatuses"][0]["restartCount"] == 0
