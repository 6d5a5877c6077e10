"""What iSulad's client code relies on, row by row of docs/clients.md: the same bytes, to a real daemon."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from sandbox_api.errors import FailedPrecondition, NotFound
from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.isulad import Isulad, Isulad216, Isulad2023, ShimLibrary
from .test_recovery import forkserver


@pytest.fixture
def shim(daemon: Daemon) -> Iterator[ShimLibrary]:
    with ShimLibrary(daemon) as library:
        yield library


@pytest.mark.parametrize("dialect", [Isulad2023, Isulad216])
def test_shutdown_and_stop_of_a_sandbox_that_is_gone_are_done(daemon: Daemon, dialect: type[Isulad]) -> None:
    isulad = dialect(daemon)
    isulad.create("lost")
    isulad.named("Start", "lost")
    for _ in range(2):  # the first answer may have been lost
        isulad.named("Stop", "lost", timeout_secs=1)
    for _ in range(2):
        isulad.named("Shutdown", "lost")
    isulad.named("Stop", "lost")
    isulad.named("Shutdown", "never-was")
    with pytest.raises(NotFound, match="lost"):
        isulad.named("Status", "lost")


def test_signal_0_asks_whether_a_container_lives(pod: Pod, shim: ShimLibrary) -> None:
    container = pod.with_wasm("sleep").build()
    shim.kill(container.id, 0)
    assert container.status() == "CREATED"
    container.start().add_exec("e", "/app.wasm").start("e")
    for exec_id in ("", "e"):
        shim.kill(container.id, 0, exec_id)
        assert container.status(exec_id) == "RUNNING"
    container.kill(signal.SIGKILL, exec_id="e")
    assert container.wait("e") == 137
    with pytest.raises(NotFound):
        shim.kill(container.id, 0, "e")
    shim.call("Kill", pb.KillRequest(id=container.id, signal=0, all=True))  # one of its processes lives
    container.kill(signal.SIGTERM)
    assert container.wait() == 143
    with pytest.raises(NotFound):
        shim.kill(container.id, 0)
    container.delete()
    with pytest.raises(NotFound):
        shim.kill(container.id, 0)


def test_signal_0_after_the_sandboxer_and_its_forkserver_died() -> None:
    with Daemon() as daemon:
        pod = Pod(daemon)
        container = pod.with_wasm("sleep").build().start()
        server = forkserver(daemon)
        daemon.kill()
        server.kill()
        daemon.start()
        with ShimLibrary(daemon) as shim:
            shim.kill(container.id, 0)
            shim.kill(container.id, signal.SIGKILL)
            assert container.reconnect().wait() in (137, 255)  # before Linux 6.15 nobody can know it
            with pytest.raises(NotFound):
                shim.kill(container.id, 0)
        pod.shutdown()
        pod.close()


def test_the_list_of_pids_is_never_empty(pod: Pod, shim: ShimLibrary) -> None:
    container = pod.with_wasm("sleep").build()
    with pytest.raises(FailedPrecondition, match=f"{container.id}: cannot list its processes: it was never started"):
        shim.pids(container.id)
    container.start()
    assert shim.pids(container.id) == [container.pid]
    container.kill(signal.SIGTERM)
    container.wait()
    assert shim.pids(container.id) == [container.pid]
    never = pod.with_wasm("sleep").build()
    never.kill(signal.SIGKILL)
    with pytest.raises(FailedPrecondition, match="it was never started"):
        shim.pids(never.id)


def test_delete_of_what_is_gone_says_so(pod: Pod, shim: ShimLibrary) -> None:
    container = pod.with_wasm("exit").args("3").build().start()
    container.wait()
    assert shim.delete(container.id) == 3
    with pytest.raises(NotFound, match=container.id):  # its exit status is gone with it: no answer would be true
        shim.delete(container.id)
