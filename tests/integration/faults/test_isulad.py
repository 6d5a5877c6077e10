"""iSulad's client code after the death of the sandboxer, or of more of it (docs/clients.md)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, NotFound
from sandbox_api.proto import task_pb2 as pb

from ...harness.container import Pod
from ...harness.daemon import Daemon
from ...harness.helpers import forkserver
from ...harness.isulad import (
    Isulad,
    Isulad216,
    Isulad2023,
    ShimLibrary,
    bundle,
    image,
    records,
    spec,
    starts_on_the_host,
    with_network_of,
)
from ...harness.netns import Stranger


def test_signal_0_after_the_sandboxer_and_its_forkserver_died(daemon: Daemon, pod: Pod) -> None:
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


def test_purge_of_a_running_exec_deletes_it_when_it_ends(daemon: Daemon, tmp_path: Path) -> None:
    isulad = Isulad2023(daemon)
    isulad.create("detached")
    isulad.named("Start", "detached")
    config = spec(image(tmp_path, "sleep"), "/sleep.wasm")
    isulad.prepare("detached", "box", config)
    with ShimLibrary(daemon) as shim:
        shim.create("box", bundle(tmp_path / "bundle", config))
        shim.start("box")
        for name in ("now", "later"):  # as isula exec -d: nobody waits
            isulad.prepare("detached", "box", {"args": ["/sleep.wasm"], "cwd": "/"}, exec_id=name)
            shim.exec("box", name)
            shim.start("box", name)
            isulad.purge("detached", "box", name)
            assert shim.state("box", name).status == pb.Status.Value("RUNNING")
        waiting = shim.send("Wait", pb.WaitRequest(id="box", exec_id="now"))
        shim.kill("box", signal.SIGKILL, "now")
        assert shim.receive(waiting, "Wait").exit_status == 137  # who waits is told
        with pytest.raises(NotFound):
            shim.state("box", "now")
        assert records(daemon, "processes") == 2
    daemon.kill()
    daemon.start()
    with ShimLibrary(daemon) as shim:
        waiting = shim.send("Wait", pb.WaitRequest(id="box", exec_id="later"))
        shim.kill("box", signal.SIGKILL, "later")
        assert shim.receive(waiting, "Wait").exit_status == 137
        with pytest.raises(NotFound):
            shim.state("box", "later")
        assert records(daemon, "processes") == 1
    Isulad2023(daemon).named("Shutdown", "detached")


@pytest.mark.engines("auto")  # one of its guests has WasmEdge's socket functions
@pytest.mark.parametrize("dialect", [Isulad2023, Isulad216])
def test_an_answered_pid_means_the_hosts_network_after_restarts_and_pid_reuse(
    daemon: Daemon, dialect: type[Isulad], tmp_path: Path
) -> None:
    root = image(tmp_path, "sleep", "conformance_sockets")
    sleep = "/sleep.wasm"
    isulad = dialect(daemon)
    isulad.create("host")
    first = isulad.named("Start", "host").pid
    with ShimLibrary(daemon) as shim:
        for name in ("soon", "later"):
            shim.create(name, bundle(tmp_path / name, with_network_of(root, "host", first, sleep)))
        assert starts_on_the_host(shim, "soon")
    daemon.kill()
    with Stranger(first):
        daemon.start()
        isulad = dialect(daemon)
        with ShimLibrary(daemon) as shim:
            assert starts_on_the_host(shim, "later")  # created before, started after
            for name, pid in (("old", first), ("new", isulad.named("Status", "host").pid)):
                shim.create(name, bundle(tmp_path / name, with_network_of(root, "host", pid, sleep)))
                assert starts_on_the_host(shim, name)
            opens = with_network_of(root, "host", first, "/conformance_sockets.wasm", "open")
            shim.create("opens", bundle(tmp_path / "opens", opens))
            shim.start("opens")
            assert shim.wait("opens") == 0  # it may use the network, too
            isulad.create("other")
            second = isulad.named("Start", "other").pid
            assert second == daemon.process.pid
            shim.create("wrong", bundle(tmp_path / "wrong", with_network_of(root, "other", first, sleep)))
            with pytest.raises(FailedPrecondition, match=f"pid {first} was not answered for sandbox other"):
                shim.start("wrong")
            shim.create("third", bundle(tmp_path / "third", with_network_of(root, "other", second, sleep)))
        assert daemon.stop() == 0
        daemon.start()
        isulad = dialect(daemon)
        with ShimLibrary(daemon) as shim:
            assert starts_on_the_host(shim, "third")
            shim.create("oldest", bundle(tmp_path / "oldest", with_network_of(root, "host", first, sleep)))
            assert starts_on_the_host(shim, "oldest")
    for sandbox in ("host", "other"):
        isulad.named("Shutdown", sandbox)
