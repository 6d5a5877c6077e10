from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from .harness.container import Pod, ready_pod
from .harness.daemon import Daemon

BOTH = ("auto", "wasmtime")
"""``auto`` runs modules by WasmEdge."""


def pytest_configure() -> None:
    """Have no signal ignored: a shell's background job is started so, and commands of tests would inherit it."""
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked ``engines`` once with each."""
    marker = metafunc.definition.get_closest_marker("engines")
    if marker is not None and "engine_option" in metafunc.fixturenames:
        metafunc.parametrize("engine_option", marker.args or BOTH, indirect=True)


@pytest.fixture
def engine_option(request: pytest.FixtureRequest) -> str:
    """The sandboxer's ``--engine``: what the environment says, or ``auto``, where a test is not marked ``engines``."""
    chosen: str = getattr(request, "param", os.environ.get("SANDBOXER_TEST_ENGINE", "auto"))
    return chosen


@pytest.fixture(scope="session")
def daemons() -> Iterator[Callable[[str], Daemon]]:
    """One sandboxer for each engine, begun when first asked for."""
    if os.geteuid() != 0:
        pytest.fail("these tests mount, fork and change users: run them as root")
    begun: dict[str, Daemon] = {}
    with ExitStack() as stack:

        def begin(engine: str) -> Daemon:
            if engine not in begun:
                begun[engine] = stack.enter_context(Daemon("--engine", engine))
            return begun[engine]

        yield begin


@pytest.fixture
def daemon(daemons: Callable[[str], Daemon], engine_option: str) -> Daemon:
    """A sandboxer that all tests share that do not restart or break it."""
    return daemons(engine_option)


@pytest.fixture
def pod(daemon: Daemon) -> Iterator[Pod]:
    """A ready sandbox of the test's own, shut down after it."""
    with ready_pod(daemon) as made:
        yield made
