"""Limits of pods, as the cluster sees them."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from supervisor.oci.wasi import max_pages

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, pod
from .programs import INSTALLER


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


def test_a_pods_statistics_have_its_network_and_memory(cluster: Cluster, kubectl: Kubectl) -> None:
    """As a kubelet with PodAndContainerStatsFromCRI reads them: cAdvisor would look for a pause process."""
    cluster.image("web")
    kubectl.apply(pod("p", container("web", "8080")))
    kubectl.wait("pod/p", "condition=Ready")
    with kubectl.forward("pod/p", 8080) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        answer.read()
    crictl = [cluster.programs / "usr/bin/crictl", f"--runtime-endpoint=unix://{cluster.containerd.socket}"]
    told = subprocess.run([*crictl, "statsp", "--output", "json"], check=True, capture_output=True, text=True)
    (stats,) = (each for each in json.loads(told.stdout)["stats"] if each["attributes"]["metadata"]["name"] == "p")
    network = stats["linux"]["network"]["defaultInterface"]
    assert network["name"] == "eth0"
    assert int(network["rxBytes"]["value"]) > 0
    assert int(stats["linux"]["memory"]["workingSetBytes"]["value"]) > 0


def test_a_limit_that_is_raised_in_place_is_the_guests_at_once(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("grow")
    resources = {"limits": {"memory": "32Mi"}, "requests": {"memory": "16Mi"}}
    kubectl.apply(pod("p", container("grow", resources=resources, stdin=True)))
    kubectl.wait("pod/p", "condition=Ready")
    more = {"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "96Mi"}}}]}}
    kubectl.run("patch", "pod", "p", "--subresource=resize", "-p", json.dumps(more))
    allocated = "{.status.containerStatuses[0].resources.limits.memory}"
    cluster.eventually(
        lambda: kubectl.run("get", "pod", "p", "-o", f"jsonpath={allocated}") == "96Mi", "the limit is raised"
    )
    attached = kubectl.command("attach", "--quiet", "--stdin", "p")
    subprocess.run(attached, input=b"\n", capture_output=True, check=False, timeout=60)
    cluster.eventually(lambda: kubectl.run("logs", "p") == f"{max_pages(96 << 20)}\n", "it has grown to the new limit")
    assert kubectl.get("pod", "p")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_an_idle_pod_takes_less_than_the_runtime_classs_overhead(cluster: Cluster, kubectl: Kubectl) -> None:
    """All that is charged to the pod: its worker with the guest's own memory, page tables, kernel memory."""
    cluster.image("sleep")
    charged = []
    for name in ("first", "second"):  # the first of all pays for what others then share
        kubectl.apply(pod(name, container("sleep")))
        kubectl.wait(f"pod/{name}", "condition=Ready")
        (worker,) = cluster.sandboxer.workers()
        time.sleep(1)
        lines = Path(f"/proc/{worker.pid}/cgroup").read_text().splitlines()
        fields = [line.split(":", 2) for line in lines]
        group = next((path for _, names, path in fields if "memory" in names.split(",")), fields[-1][2])
        place = Path(f"/sys/fs/cgroup/memory{group}").parent
        if not place.exists():
            place = Path(f"/sys/fs/cgroup{group}").parent
        usage = next(place.glob("memory.usage_in_bytes"), place / "memory.current")
        charged.append(int(usage.read_text()))
        kubectl.run("delete", "pod", name, "--now")
    print(f"an idle pod: {charged[0] >> 10} KiB, the next {charged[1] >> 10} KiB")
    (overhead,) = re.findall(r"memory: (\d+)Mi", (INSTALLER.parent / "runtimeclass.yaml").read_text())
    assert max(charged) < int(overhead) << 20
