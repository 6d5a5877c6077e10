"""packaging/kubernetes: the very files that users apply."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import NODE, Cluster
from .kubectl import Kubectl
from .test_workloads import finished

KUBERNETES = Path(__file__).resolve().parent.parent.parent / "packaging" / "kubernetes"
EXAMPLES = KUBERNETES / "examples"


@pytest.fixture(scope="module", autouse=True)
def labelled(cluster: Cluster) -> Iterator[None]:
    """The RuntimeClass as users have it, and a node that it may use."""
    for name in ("hello", "web", "memory"):
        cluster.import_image(name, f"{name}:1")
    cluster.kubectl.run("delete", "runtimeclass", "wasm")
    cluster.kubectl.run("apply", "-f", str(KUBERNETES / "runtimeclass.yaml"))
    cluster.kubectl.run("label", "node", NODE, "wasm-sandboxer=enabled")
    yield
    cluster.kubectl.run("label", "node", NODE, "wasm-sandboxer-")
    cluster.kubectl.run("delete", "runtimeclass", "wasm")
    cluster.runtime_class()


def get(kubectl: Kubectl, what: str, port: int) -> bytes:
    with kubectl.forward(what, port) as local, urllib.request.urlopen(f"http://127.0.0.1:{local}/", timeout=10) as page:
        body: bytes = page.read()
        return body


def test_the_example_job_completes(kubectl: Kubectl) -> None:
    kubectl.run("apply", "-f", str(EXAMPLES / "job.yaml"))
    kubectl.wait("job/hello", "condition=Complete")
    assert kubectl.get("job", "hello")["status"]["succeeded"] == 3


def test_the_example_server_answers_through_its_service(kubectl: Kubectl) -> None:
    kubectl.run("apply", "-f", str(EXAMPLES / "server.yaml"))
    kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    assert get(kubectl, "service/web", 80) == b"hello from WASI\n"


def test_the_example_with_limits_runs_within_them(kubectl: Kubectl) -> None:
    kubectl.run("apply", "-f", str(EXAMPLES / "limits.yaml"))
    assert finished(kubectl, "limited") == 0
    assert kubectl.run("logs", "limited") == "got 24\n"
    # The RuntimeClass's overhead is the pod's.
    assert kubectl.get("pod", "limited")["spec"]["overhead"] == {"memory": "1Mi"}


def test_the_example_page_comes_from_its_config_map(kubectl: Kubectl) -> None:
    kubectl.run("apply", "-f", str(EXAMPLES / "config-map.yaml"))
    kubectl.wait("pod/site", "condition=Ready")
    assert get(kubectl, "pod/site", 8080) == b"<h1>from a config map</h1>\n"


def test_all_examples_are_applied_by_kustomize(kubectl: Kubectl) -> None:
    kubectl.run("apply", "-k", str(EXAMPLES))
    kubectl.wait("job/hello", "condition=Complete")
    kubectl.wait("pod/site", "condition=Ready")


def test_pods_wait_for_a_node_with_the_label(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.kubectl.run("label", "node", NODE, "wasm-sandboxer-")
    kubectl.run("apply", "-f", str(EXAMPLES / "limits.yaml"))
    kubectl.wait("pod/limited", "condition=PodScheduled=False")
    cluster.kubectl.run("label", "node", NODE, "wasm-sandboxer=enabled")
    assert finished(kubectl, "limited") == 0
