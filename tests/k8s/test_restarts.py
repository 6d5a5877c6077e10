"""Restarts of kubelet, containerd and the sandboxer under running pods, one at a time: nothing is lost or left over."""

from __future__ import annotations

import signal

import pytest

from .cluster import Cluster
from .kubectl import Kubectl, KubectlFailed
from .pods import container, deployment, pod

TERM, KILL = signal.SIGTERM, signal.SIGKILL
REPLICAS = 3


def stop(cluster: Cluster, part: str, number: signal.Signals) -> None:
    if part == "kubelet":
        cluster.stop("kubelet", number)
    elif part == "containerd":
        cluster.containerd.stop(number)
    elif number == KILL:
        cluster.sandboxer.kill()
    else:
        cluster.sandboxer.stop()


def start(cluster: Cluster, part: str) -> None:
    {"kubelet": cluster.start_kubelet, "containerd": cluster.containerd.start, "sandboxer": cluster.sandboxer.start}[
        part
    ]()


def running(kubectl: Kubectl) -> dict[str, tuple[int, str]]:
    """Each pod's restarts and its container's id."""
    return {
        each["metadata"]["name"]: (status["restartCount"], status["containerID"])
        for each in kubectl.get("pods")["items"]
        for status in each["status"]["containerStatuses"]
    }


@pytest.mark.parametrize("number", [TERM, KILL])
@pytest.mark.parametrize(
    ("stopped", "started"),
    [
        (("kubelet",), ("kubelet",)),
        (("containerd",), ("containerd",)),
        (("sandboxer",), ("sandboxer",)),
    ],
    ids=lambda order: "-".join(order),
)
def test_pods_run_on(
    cluster: Cluster, kubectl: Kubectl, stopped: tuple[str, ...], started: tuple[str, ...], number: signal.Signals
) -> None:
    cluster.image("sleep")
    cluster.image("exit")
    kubectl.apply(deployment("d", REPLICAS, container("sleep")))
    kubectl.run("rollout", "status", "deployment/d", "--timeout=60s")
    before, workers = running(kubectl), {process.pid for process in cluster.sandboxer.workers()}
    assert len(before) == len(workers) == REPLICAS
    for part in stopped:
        stop(cluster, part, number)
    for part in started:
        start(cluster, part)
    cluster.eventually(lambda: "True" in cluster.node_ready(), "the node is ready")
    kubectl.apply(pod("after", container("exit", "5")))  # once it has run, the kubelet has looked at all
    try:
        kubectl.run("wait", "pod/after", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s")
    except KubectlFailed as error:
        pytest.fail(f"{error}\n{kubectl.run('describe', 'pod', 'after')}")
    kubectl.run("delete", "pod", "after")
    assert running(kubectl) == before
    assert {process.pid for process in cluster.sandboxer.workers()} == workers
    kubectl.run("delete", "deployment", "d", "--cascade=foreground")
    cluster.eventually(lambda: not cluster.sandboxer.workers(), "no instance is left")
