"""A memory limit that is changed while a guest runs: its linear memory may then grow as far as the new one allows."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import pytest

from sandbox_api.proto import task_pb2 as pb
from supervisor.oci.wasi import max_pages

from ..harness.compiled import until
from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.names import RUN

MIB = 1 << 20


_numbers = count()


def group() -> str:
    """A control group of the test's own: names of containers come again in every run."""
    return f"/wasm-sandboxer-test-{RUN}/grow-{next(_numbers)}"


class Grower:
    """A guest that takes all that it can get when it is asked to."""

    def __init__(self, pod: Pod, limit: int) -> None:
        self._files = ExitStack()
        builder = pod.with_wasm(guest("grow")).fifos("stdin", "stdout")
        self.container = builder.linux(cgroupsPath=group(), resources={"memory": {"limit": limit}}).build().start()
        self._stdin = self._files.enter_context((self.container.bundle / "stdin").open("w", buffering=1))
        self._stdout = self._files.enter_context((self.container.bundle / "stdout").open())

    def grow(self) -> int:
        """Pages that it has then, all of them touched."""
        self._stdin.write("\n")
        return int(self._stdout.readline() or "-1")

    def update(self, limit: int) -> None:
        request = pb.UpdateTaskRequest(id=self.container.id)
        request.resources.value = b'{"memory": {"limit": %d}}' % limit
        self.container.connection.call("Update", request)

    def close(self) -> None:
        self.container.kill(signal.SIGKILL)
        self.container.wait()
        self._files.close()


@pytest.fixture(params=["never", "always"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with Daemon("--aot", request.param) as running:
        yield running


@pytest.fixture
def pod(daemon: Daemon) -> Pod:
    return Pod(daemon)


def bound(daemon: Daemon, limit: int) -> int:
    """Pages at the start under a limit."""
    interpreted = "compiled" not in daemon.log_text()
    return max_pages(limit, guest("grow").stat().st_size if interpreted else 0)


def test_a_guest_gets_what_a_raised_limit_promises(daemon: Daemon, pod: Pod) -> None:
    grower = Grower(pod, 32 * MIB)
    assert grower.grow() == bound(daemon, 32 * MIB)
    for limit in (96 * MIB, 160 * MIB):
        grower.update(limit)
        assert grower.grow() == max_pages(limit)
    assert "keeps the bound of its start" not in daemon.log_text()
    grower.close()


def test_a_lowered_limit_refuses_before_it_kills(daemon: Daemon, pod: Pod) -> None:
    grower = Grower(pod, 160 * MIB)
    grower.update(64 * MIB)
    assert grower.grow() == max_pages(64 * MIB)
    grower.update(128 * MIB)
    daemon.stop()
    daemon.start()
    assert grower.grow() == max_pages(128 * MIB)
    grower.container.reconnect()
    grower.close()


def test_no_limit_and_back(daemon: Daemon, pod: Pod) -> None:
    grower = Grower(pod, 32 * MIB)
    grower.update(-1)
    grower.update(48 * MIB)
    assert grower.grow() == max_pages(48 * MIB)
    grower.close()


def test_execs_and_later_starts_get_the_new_bound(daemon: Daemon, pod: Pod) -> None:
    builder = pod.with_wasm(guest("memory")).args("100").fifos("stdout")
    container = builder.linux(cgroupsPath=group(), resources={"memory": {"limit": 32 * MIB}}).build()
    request = pb.UpdateTaskRequest(id=container.id)
    request.resources.value = b'{"memory": {"limit": %d}}' % (160 * MIB)
    container.connection.call("Update", request)
    assert container.start().wait() == 0


@pytest.mark.parametrize("daemon", ["auto"], indirect=True)
def test_a_guest_from_an_image_is_bounded_anew_too(daemon: Daemon, pod: Pod) -> None:
    growers: list[Grower] = []

    def imaged() -> bool:
        if growers:
            growers.pop().close()
        growers.append(Grower(pod, 32 * MIB))
        return any("/memfd:image" in line for line in open(f"/proc/{growers[0].container.pid}/maps"))

    until("an instance comes from an image", imaged)
    assert growers[0].grow() == max_pages(32 * MIB)
    growers[0].update(96 * MIB)
    assert growers[0].grow() == max_pages(96 * MIB)
    growers[0].close()


def test_an_engine_without_a_bound_to_change_is_named() -> None:
    with Daemon("--engine", "wasmtime") as daemon:
        grower = Grower(Pod(daemon), 32 * MIB)
        grower.update(96 * MIB)
        assert grower.grow() == max_pages(32 * MIB)
        assert f"{grower.container.id}: its linear memory keeps the bound of its start" in daemon.log_text()
        grower.close()
