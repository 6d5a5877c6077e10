"""The pod's network namespace, and what engines mount for its names."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument

from ..harness.container import Builder, Collected, Container, Pod
from ..harness.daemon import Daemon
from ..harness.netns import NetworkNamespace

pytestmark = pytest.mark.engines


@pytest.fixture
def netns() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as made:
        yield made


def listening(builder: Builder) -> Container:
    """Started, and waited for until it listens."""
    container = builder.fifos("stdout").build()
    fifo = os.open(container.bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fifo, True)
    container.start()
    with open(fifo) as file:
        assert file.readline() == "listening\n"
    return container


@pytest.mark.engines("auto")
def test_a_guest_is_reached_in_its_pods_namespace_and_not_in_the_hosts(daemon: Daemon, netns: NetworkNamespace) -> None:
    pod = Pod(daemon, netns_path=netns.path)
    container = listening(pod.with_wasm("serve").args("18080", "from the pod"))
    assert os.readlink(f"/proc/{container.pid}/ns/net") == os.readlink(netns.path)
    assert netns.read(18080) == "from the pod"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 18080), 1)
    pod.shutdown()
    pod.close()


@pytest.mark.engines("auto")
def test_two_pods_may_use_the_same_port(daemon: Daemon, netns: NetworkNamespace) -> None:
    with NetworkNamespace() as other:
        pods = [Pod(daemon, netns_path=each.path) for each in (netns, other)]
        for number, pod in enumerate(pods):
            listening(pod.with_wasm("serve").args("18081", f"pod {number}"))
        assert [netns.read(18081), other.read(18081)] == ["pod 0", "pod 1"]
        for pod in pods:
            pod.shutdown()
            pod.close()


def test_the_specs_namespace_is_joined_where_the_sandbox_has_none(pod: Pod, netns: NetworkNamespace) -> None:
    builder = pod.with_wasm("sleep").linux(namespaces=[{"type": "network", "path": netns.path}])
    container = builder.build().start()
    assert os.readlink(f"/proc/{container.pid}/ns/net") == os.readlink(netns.path)


def test_a_namespace_that_went_away_fails_the_start(pod: Pod, tmp_path: Path) -> None:
    builder = pod.with_wasm("hello").linux(namespaces=[{"type": "network", "path": str(tmp_path / "gone")}])
    container = builder.build()
    with pytest.raises(InvalidArgument, match="gone: No such file"):
        container.start()
    assert container.status() == "CREATED"


def test_names_that_the_engine_mounts_are_seen(pod: Pod, tmp_path: Path) -> None:
    builder = pod.with_wasm("files")
    for name, text in [("hosts", "10.0.0.1 pod"), ("hostname", "pod-1"), ("resolv.conf", "nameserver 10.0.0.10")]:
        (tmp_path / name).write_text(text + "\n")
        builder.mount(f"/etc/{name}", tmp_path / name, options=("ro",))
    output = Collected(builder.fifos("stdout").bundle / "stdout")
    container = builder.args("r /etc/hosts", "r /etc/hostname", "r /etc/resolv.conf").build().start()
    assert container.wait() == 0
    assert output.text().splitlines() == [
        "/etc/hosts: 10.0.0.1 pod",
        "/etc/hostname: pod-1",
        "/etc/resolv.conf: nameserver 10.0.0.10",
    ]
