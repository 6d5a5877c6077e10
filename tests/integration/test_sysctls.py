"""Settings of a pod's network namespace, and ports below 1024."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument
from sandbox_api.proto.pod_config_pb2 import POD, PodSandboxConfig

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.netns import NetworkNamespace
from .test_names import packed
from .test_network import listening

FIRST_PORT = "net/ipv4/ip_unprivileged_port_start"


@pytest.fixture
def netns() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as made:
        yield made


def setting(netns: NetworkNamespace, path: str) -> str:
    return netns.run(f"print(open('/proc/sys/{path}').read(), end='')").strip()


def asked(**sysctls: str) -> PodSandboxConfig:
    return PodSandboxConfig(linux={"sysctls": {name.replace("__", "."): value for name, value in sysctls.items()}})


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_guest_of_any_user_serves_below_1024(daemon: Daemon, netns: NetworkNamespace, uid: int) -> None:
    hosts = Path(f"/proc/sys/{FIRST_PORT}").read_text()
    pod = Pod(daemon, netns_path=netns.path)
    listening(pod.with_wasm("serve").args("80", "from port 80").process(user={"uid": uid, "gid": uid}))
    assert netns.read(80) == "from port 80"
    assert Path(f"/proc/sys/{FIRST_PORT}").read_text() == hosts
    pod.shutdown()
    pod.close()


def test_the_pods_sysctls_are_set_in_its_namespace_alone(daemon: Daemon, netns: NetworkNamespace) -> None:
    hosts = Path("/proc/sys/net/core/somaxconn").read_text()
    config = asked(net__core__somaxconn="321", net__ipv4__ip_unprivileged_port_start="500")
    config.linux.sysctls["net/ipv4/conf/lo/forwarding"] = "1"
    pod = Pod(daemon, netns_path=netns.path, options=packed(config))
    assert setting(netns, "net/core/somaxconn") == "321"
    assert setting(netns, "net/ipv4/conf/lo/forwarding") == "1"
    assert setting(netns, FIRST_PORT) == "500"
    assert Path("/proc/sys/net/core/somaxconn").read_text() == hosts
    pod.shutdown()
    pod.close()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (asked(kernel__shm_rmid_forced="1"), "sysctl kernel.shm_rmid_forced: not supported"),
        (asked(net__ipv4__no_such_thing="1"), "sysctl net.ipv4.no_such_thing: .* no such setting"),
        (asked(net__netfilter__nf_hooks_lwtunnel="1"), "the whole machine's"),
        (asked(net__core__somaxconn="many"), "sysctl net.core.somaxconn: the kernel does not take 'many'"),
        (PodSandboxConfig(linux={"sysctls": {"net/../kernel/hostname": "x"}}), "no name of a setting"),
        (
            PodSandboxConfig(linux={"security_context": {"namespace_options": {"userns_options": {"mode": POD}}}}),
            "user",
        ),
    ],
)
def test_unsupported_sysctls_are_refused(
    daemon: Daemon, netns: NetworkNamespace, config: PodSandboxConfig, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        Pod(daemon, netns_path=netns.path, options=packed(config))


def test_sysctls_without_a_namespace_of_its_own_are_refused(daemon: Daemon) -> None:
    before = Path("/proc/sys/net/core/somaxconn").read_text()
    for fields in ({}, {"netns_path": f"/proc/{daemon.process.pid}/ns/net"}):  # type: ignore[union-attr]
        with pytest.raises(InvalidArgument, match=r"sysctl net\.core\.somaxconn: the pod"):
            Pod(daemon, options=packed(asked(net__core__somaxconn="321")), **fields)
    assert Path("/proc/sys/net/core/somaxconn").read_text() == before
