"""What a cluster's operator does under load: a rolling update, a node that is drained."""

from __future__ import annotations

import subprocess

from .cluster import NODE, Cluster
from .kubectl import Kubectl
from .pods import container, deployment

PORT = 8080
READY = {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1}


def available(kubectl: Kubectl, name: str) -> int:
    return int(kubectl.get("deployment", name)["status"].get("availableReplicas", 0))


def test_a_rolling_update_never_has_fewer_servers(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("web")
    servers = deployment("d", 3, container("web", str(PORT), readinessProbe=READY))
    servers["spec"]["strategy"] = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    kubectl.apply(servers)
    kubectl.run("rollout", "status", "deployment/d", "--timeout=60s")
    kubectl.run("set", "env", "deployment/d", "VERSION=2")
    status = subprocess.Popen(
        kubectl.command("rollout", "status", "deployment/d", "--timeout=60s"), stdout=subprocess.DEVNULL
    )
    fewest = 3
    while status.poll() is None:
        fewest = min(fewest, available(kubectl, "d"))
    assert status.returncode == 0
    assert fewest == 3
    environments = kubectl.run("get", "pods", "-o", "jsonpath={.items[*].spec.containers[*].env[*].value}").split()
    assert environments[:3] == ["2"] * 3


def test_a_drained_node_has_no_instances_until_it_is_uncordoned(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("sleep")
    kubectl.apply(deployment("d", 3, container("sleep")))
    kubectl.run("rollout", "status", "deployment/d", "--timeout=60s")
    try:
        kubectl.run("drain", NODE, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
        cluster.eventually(lambda: not cluster.sandboxer.workers(), "no instance is left")
        assert available(kubectl, "d") == 0
    finally:
        kubectl.run("uncordon", NODE)
    kubectl.run("rollout", "status", "deployment/d", "--timeout=60s")
    assert len(cluster.sandboxer.workers()) == 3
