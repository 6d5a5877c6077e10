from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .node import Node, Pod


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail("containerd and the sandboxer mount, fork and change users: run these tests as root")


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """One containerd and sandboxer for all tests that leave them as they are."""
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
