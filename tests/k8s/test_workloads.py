"""Jobs, deployments, probes, logs, exec, volumes: what people run on a cluster."""

from __future__ import annotations

import subprocess
import time

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, deployment, job, pod


def finished(kubectl: Kubectl, name: str) -> int:
    """The exit status of a pod's one container, once it has ended."""
    kubectl.run(
        "wait", f"pod/{name}", "--for=jsonpath={.status.containerStatuses[0].state.terminated}", "--timeout=60s"
    )
    state = kubectl.get("pod", name)["status"]["containerStatuses"][0]["state"]
    return int(state["terminated"]["exitCode"])


def test_exit_statuses_and_logs_are_the_guests(cluster: Cluster, kubectl: Kubectl) -> None:
    for name in ("hello", "exit", "trap"):
        cluster.image(name)
    kubectl.apply(
        pod("hello", container("hello")), pod("fails", container("exit", "7")), pod("traps", container("trap"))
    )
    assert [finished(kubectl, name) for name in ("hello", "fails", "traps")] == [0, 7, 134]
    assert kubectl.run("logs", "hello") == "hello from WASI\n"
    assert "wasm trap: unreachable" in kubectl.run("logs", "traps")


def test_a_job_completes_and_one_that_fails_says_so(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("exit")
    kubectl.apply(job("good", container("exit", "0"), completions=3, parallelism=3), job("bad", container("exit", "3")))
    kubectl.wait("job/good", "condition=Complete")
    kubectl.wait("job/bad", "condition=Failed")


def test_exec_runs_in_the_container(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("sleep")
    kubectl.apply(pod("p", container("sleep")))
    kubectl.wait("pod/p", "condition=Ready")
    done = subprocess.run(kubectl.command("exec", "p", "--", "/sleep.wasm", "0"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_deployment_is_scaled_and_rolled(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("sleep")
    kubectl.apply(deployment("d", 5, container("sleep")))
    kubectl.run("rollout", "status", "deployment/d", "--timeout=60s")
    kubectl.run("set", "env", "deployment/d", "VERSION=2")
    kubectl.run("rollout", "status", "deployment/d", "--timeout=60s")
    kubectl.run("scale", "deployment/d", "--replicas=0")
    deadline = time.monotonic() + 60
    while kubectl.get("pods")["items"]:
        assert time.monotonic() < deadline, "pods are left"
        time.sleep(0.2)


def test_a_config_map_is_a_folder_of_the_guest(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("files")
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"key": "value from the map"}},
        pod(
            "p",
            container("files", "r /config/key", volumeMounts=[{"name": "v", "mountPath": "/config"}]),
            volumes=[{"name": "v", "configMap": {"name": "m"}}],
        ),
    )
    assert finished(kubectl, "p") == 0, kubectl.run("logs", "p")
    assert "value from the map" in kubectl.run("logs", "p")


def test_a_command_is_looked_up_in_the_images_path(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("hello")
    env = [{"name": "PATH", "value": "/bin:/"}]
    kubectl.apply(pod("p", container("hello", command=["hello.wasm"], workingDir="/tmp", env=env)))
    assert finished(kubectl, "p") == 0
    assert kubectl.run("logs", "p") == "hello from WASI\n"
