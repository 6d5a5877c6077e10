"""Probes and lifecycle hooks: by exec, by a connection, by HTTP."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster
from .kubectl import Kubectl, KubectlFailed
from .pods import container, pod

FAST = {"periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 5}
PORT = 8080


def http(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": PORT}, **FAST}


def tcp(port: int) -> dict[str, Any]:
    return {"tcpSocket": {"port": port}, **FAST}


def command(*words: str) -> dict[str, Any]:
    return {"exec": {"command": list(words)}, **FAST}


def restarts(kubectl: Kubectl, name: str) -> int:
    return int(kubectl.get("pod", name)["status"]["containerStatuses"][0]["restartCount"])


@pytest.mark.parametrize(
    "probe", [http("/healthz"), tcp(PORT), command("/bin/exit.wasm", "0")], ids=["http", "tcp", "exec"]
)
def test_a_pod_is_ready_when_its_probes_succeed(cluster: Cluster, kubectl: Kubectl, probe: dict[str, Any]) -> None:
    cluster.image("web")
    kubectl.apply(pod("p", container("web", str(PORT), startupProbe=probe, readinessProbe=probe, livenessProbe=probe)))
    kubectl.wait("pod/p", "condition=Ready")
    assert restarts(kubectl, "p") == 0


@pytest.mark.parametrize(
    "probe", [http("/missing"), tcp(PORT + 1), command("/bin/exit.wasm", "1")], ids=["http", "tcp", "exec"]
)
def test_a_pod_is_not_ready_while_its_probe_fails(cluster: Cluster, kubectl: Kubectl, probe: dict[str, Any]) -> None:
    cluster.image("web")
    kubectl.apply(pod("p", container("web", str(PORT), readinessProbe=probe)))
    kubectl.run("wait", "pod/p", "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
    cluster.eventually(
        lambda: "Readiness probe failed" in kubectl.run("get", "events", "-o", "jsonpath={.items[*].message}"),
        "the kubelet says that the probe failed",
    )
    with pytest.raises(KubectlFailed):
        kubectl.wait("pod/p", "condition=Ready", seconds=1)


def test_a_server_that_turns_bad_is_restarted(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("web")
    kubectl.apply(pod("p", container("web", str(PORT), livenessProbe=http("/healthz")), restartPolicy="Always"))
    kubectl.wait("pod/p", "condition=Ready")
    address = kubectl.get("pod", "p")["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:{PORT}/fail", timeout=10) as answer:
        assert answer.read() == b"from now on\n"
    cluster.eventually(lambda: restarts(kubectl, "p") == 1, "the container is restarted")
    kubectl.wait("pod/p", "condition=Ready")
    ended = kubectl.get("pod", "p")["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert ended["exitCode"] == 143  # SIGTERM, which no WASI program can catch


def test_a_guest_that_ends_is_restarted_and_its_last_log_is_kept(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("exit")
    kubectl.apply(pod("p", container("exit", "3"), restartPolicy="OnFailure"))
    cluster.eventually(lambda: restarts(kubectl, "p") >= 1, "the container is restarted")
    assert kubectl.run("logs", "p", "--previous") == "ending with 3\n"


def test_hooks_run_after_the_start_and_before_the_end(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> None:
    cluster.image("sleep")
    hooks = {
        "postStart": {"exec": {"command": ["/bin/files.wasm", "w /notes/started yes"]}},
        "preStop": {"exec": {"command": ["/bin/files.wasm", "w /notes/stopping yes"]}},
    }
    kubectl.apply(
        pod(
            "p",
            container("sleep", lifecycle=hooks, volumeMounts=[{"name": "v", "mountPath": "/notes"}]),
            terminationGracePeriodSeconds=10,
            volumes=[{"name": "v", "hostPath": {"path": str(tmp_path)}}],
        )
    )
    kubectl.wait("pod/p", "condition=Ready")
    assert [path.name for path in tmp_path.iterdir()] == ["started"]
    kubectl.run("delete", "pod", "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["started", "stopping"]


def test_a_start_hook_that_fails_ends_the_container(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("sleep")
    hook = {"postStart": {"exec": {"command": ["/bin/exit.wasm", "1"]}}}
    kubectl.apply(pod("p", container("sleep", lifecycle=hook)))
    cluster.eventually(
        lambda: "PostStartHook" in kubectl.run("get", "events", "-o", "jsonpath={.items[*].message}"),
        "the kubelet says that the hook failed",
    )
    kubectl.run("wait", "pod/p", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s")
