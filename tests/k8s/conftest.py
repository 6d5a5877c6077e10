from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import Cluster, enter_node
from .kubectl import Kubectl
from .programs import programs


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Make this test run's namespaces those of a node."""
    enter_node()


@pytest.fixture(scope="session")
def cluster(namespaces: None) -> Iterator[Cluster]:
    """One control plane with one node, for all tests that leave it as it is."""
    with tempfile.TemporaryDirectory(prefix="k8s-", dir="/tmp") as folder, Cluster(programs(), Path(folder)) as cluster:
        yield cluster


@pytest.fixture
def kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own, all its pods are gone at the end."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.kubectl.run("create", "namespace", name)
    try:
        yield cluster.kubectl.of(name)
    finally:
        mine = cluster.kubectl.of(name)
        mine.run("delete", "deployments,jobs,daemonsets,pods", "--all", "--timeout=120s", seconds=150)
        cluster.kubectl.run("delete", "namespace", name, "--wait=false")  # its controller would take 5 s
