"""Restarts of kubelet, containerd and the sandboxer under running pods: nothing is lost or left over."""

from __future__ import annotations

import signal
import time

import pytest

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, deployment, pod

TERM, KILL = signal.SIGTERM, signal.SIGKILL
REPLICAS = 3


def stop(cluster: Cluster, part: str, number: signal.Signals) -> None:
    if part == "kubelet":
        cluster.stop("kubelet", number)
    elif part == "containerd":
        # containerd 2.4 does not end while a Stats of its own waits for the sandboxer: systemd kills it after 90 s
        cluster.containerd.stop(number, patience=5, kill=True)
    elif number == KILL:
        cluster.sandboxer.kill()
    else:
        cluster.sandboxer.stop()


def launch(cluster: Cluster, part: str) -> None:
    """Start a part, and wait for nothing, as systemd does at boot."""
    if part == "kubelet":
        cluster.start_kubelet()
    elif part == "containerd":
        cluster.containerd.launch()
    else:
        cluster.sandboxer.launch()


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
        (("sandboxer", "containerd"), ("sandboxer", "containerd")),
        (("containerd", "sandboxer"), ("sandboxer", "containerd")),
        (("kubelet", "containerd", "sandboxer"), ("sandboxer", "containerd", "kubelet")),
        (("sandboxer", "containerd", "kubelet"), ("kubelet", "sandboxer", "containerd")),
        (("containerd", "kubelet", "sandboxer"), ("kubelet", "containerd", "sandboxer")),
    ],
    ids=lambda order: "-".join(each[0] for each in order),
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
        time.sleep(1)
    for part in started:
        launch(cluster, part)
        time.sleep(1)
    if "containerd" in started:
        cluster.containerd.wait_ready()
    kubectl.apply(pod("after", container("exit", "5")))  # once it has run, the kubelet has looked at all
    try:
        cluster.eventually(
            lambda: cluster.keep_kubelet() and kubectl.get("pod", "after")["status"]["phase"] == "Failed",
            "a new pod has run",
        )
    except pytest.fail.Exception as error:
        pytest.fail(f"{error}\n{kubectl.run('describe', 'pod', 'after')}")
    kubectl.run("delete", "pod", "after")
    assert running(kubectl) == before
    assert {process.pid for process in cluster.sandboxer.workers()} == workers
    kubectl.run("delete", "deployment", "d", "--cascade=foreground")
    cluster.eventually(lambda: not cluster.sandboxer.workers(), "no instance is left")
