from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ..harness.compiled import Node
from ..harness.daemon import Daemon


@pytest.fixture
def start() -> Iterator[Callable[..., Node]]:
    """Start sandboxers with these options, on a cache of their own or on another's."""
    nodes: list[Node] = []
    with ExitStack() as daemons:

        def begin(*options: str, like: Node | None = None) -> Node:
            daemon = Daemon(*options, *(("--cache-dir", str(like.cache)) if like else ()))
            nodes.append(Node(daemons.enter_context(daemon), like.cache if like else daemon.cache))
            return nodes[-1]

        yield begin
        for node in nodes:
            if node.daemon.process is not None:
                node.close()


@pytest.fixture
def auto(start: Callable[..., Node]) -> Node:
    """Modules run by WasmEdge, whatever the environment says."""
    return start("--aot", "auto", "--engine", "auto")


@pytest.fixture
def always(start: Callable[..., Node]) -> Node:
    return start("--aot", "always")
