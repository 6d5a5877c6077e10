"""`kubectl apply -k packaging/kubernetes`, as docs/kubernetes.md says it, under the kubelet.

One thing is changed: the host's root is a node's root of its own (``NodeRoot``), as this machine's is not the test's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .cluster import NODE, Cluster
from .node_root import NodeRoot
from .programs import INSTALLER, node_image
from .test_node_script import FRESH, OURS

FOLDER = str(INSTALLER.parent)
NAME = "wasm-sandboxer"


@pytest.fixture
def node(cluster: Cluster) -> Iterator[NodeRoot]:
    """A node's root; at the end the cluster is as it was."""
    with NodeRoot() as root:
        try:
            yield root
        finally:
            cluster.kubectl.try_run("label", "node", NODE, f"{NAME}-")
            cluster.kubectl.of("").run("delete", "--ignore-not-found", "-k", FOLDER, "--timeout=100s")
            cluster.runtime_class()


def test_labelled_nodes_are_installed_and_cleared(cluster: Cluster, node: NodeRoot) -> None:
    kubectl = cluster.kubectl.of(NAME)
    cluster.load_pause()
    cluster.containerd.ctr("images", "import", node_image())

    cluster.kubectl.of("").run("apply", "-k", FOLDER)
    patch = [{"op": "replace", "path": "/spec/template/spec/volumes/0/hostPath/path", "value": str(node.path)}]
    for name in ("install", "remove"):
        kubectl.run("patch", "daemonset", name, "--type=json", "-p", json.dumps(patch))
    assert kubectl.get("pods")["items"] == []  # no node is labelled

    cluster.kubectl.run("label", "node", NODE, f"{NAME}=enabled")
    cluster.eventually(lambda: bool(kubectl.get("pods")["items"]), "the installer's pod is there")
    kubectl.run("rollout", "status", "daemonset/install", "--timeout=100s")
    assert "ready" in kubectl.run("logs", "--selector=app=install", "--container=install")
    assert node.calls == [*FRESH, "restart containerd.service"]
    assert "wasmedge" in node.run("wasm-sandboxer", "doctor")

    cluster.kubectl.run("label", "--overwrite", "node", NODE, f"{NAME}=removed")
    cluster.eventually(
        lambda: "app=remove" in kubectl.run("get", "pods", "--show-labels"), "the remover's pod is there"
    )
    kubectl.run("rollout", "status", "daemonset/remove", "--timeout=100s")
    assert node.files(*OURS) == set()
