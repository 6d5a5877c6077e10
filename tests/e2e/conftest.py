from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .node import Node, Pod


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """One containerd and sandboxer for all tests that leave them as they are."""
    if os.geteuid() != 0:
        pytest.skip("containerd and the sandboxer have to run as root")
    with Node() as node:
        yield node


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    with node.pod() as pod:
        yield pod


@pytest.fixture(autouse=True)
def logs_of_a_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Adds what the sandboxer logged during a test to that test's output."""
    if "node" not in request.fixturenames:
        yield
        return
    node: Node = request.getfixturevalue("node")
    before = len(node.sandboxer.log_text())
    yield
    print(node.sandboxer.log_text()[before:])
