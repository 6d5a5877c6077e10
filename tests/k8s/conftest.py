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
def cluster() -> Iterator[Cluster]:
    """One control plane with one node, for all tests that leave it as it is."""
    enter_node()
    with tempfile.TemporaryDirectory(prefix="k8s-", dir="/tmp") as folder, Cluster(programs(), Path(folder)) as cluster:
        yield cluster


@pytest.fixture
def kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own, removed with all that is in it."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.kubectl.run("create", "namespace", name)
    try:
        yield cluster.kubectl.of(name)
    finally:
        cluster.kubectl.run("delete", "namespace", name, "--timeout=120s", seconds=150)
