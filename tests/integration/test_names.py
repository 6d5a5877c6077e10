"""A pod's own names and those that it looks up: /etc/hostname, /etc/hosts, /etc/resolv.conf, getaddrinfo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from sandbox_api.errors import InvalidArgument
from sandbox_api.proto.pod_config_pb2 import NODE, PodSandboxConfig

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.dns import Dns
from ..harness.netns import NetworkNamespace

CLUSTER = {"servers": ["127.0.0.1"], "searches": ["ns.svc.cluster.local", "svc.cluster.local"], "options": ["ndots:5"]}


def packed(config: PodSandboxConfig) -> Any:
    """A configuration as containerd packs it into Create's options."""
    return Any(type_url="runtime.v1.PodSandboxConfig", value=config.SerializeToString())


def config(hostname: str = "pod-name", **dns: list[str]) -> PodSandboxConfig:
    return PodSandboxConfig(hostname=hostname, dns_config=dns or CLUSTER)


@pytest.fixture
def netns() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as made:
        yield made


@pytest.fixture
def named(daemon: Daemon, netns: NetworkNamespace) -> Iterator[Pod]:
    """A pod with names, whose DNS server is at its loopback."""
    pod = Pod(daemon, netns_path=netns.path, options=packed(config()))
    yield pod
    pod.shutdown()
    pod.close()


def served(netns: NetworkNamespace, *addresses: str, **names: str) -> Dns:
    return Dns(*(addresses or ("127.0.0.1",)), prefix=["nsenter", f"--net={netns.path}"], **names)


def resolved(pod: Pod, *names: str, uid: int = 0) -> dict[str, str]:
    """Files that a guest finds, by name."""
    container = pod.with_wasm("resolve").args(*names).process(user={"uid": uid, "gid": uid}).build().start()
    container.wait()
    assert container.stderr() == ""
    lines = (line.partition(":") for line in container.stdout().splitlines())
    return {name: found.strip() for name, _, found in lines}


def test_names_of_the_cluster_are_found_by_search_domains_and_ndots(named: Pod, netns: NetworkNamespace) -> None:
    with served(netns, web__ns__svc__cluster__local="10.96.0.7", example__org="192.0.2.1") as dns:
        found = resolved(named, "web", "web.ns", "example.org", uid=1000)
    assert found == {"web": "10.96.0.7", "web.ns": "10.96.0.7", "example.org": "192.0.2.1"}
    assert dns.questions.index("udp A example.org.ns.svc.cluster.local") < dns.questions.index("udp A example.org")


def test_an_answer_that_is_cut_is_asked_for_by_tcp(named: Pod, netns: NetworkNamespace) -> None:
    with served(netns, large__ns__svc__cluster__local="10.96.0.1,10.96.0.2,10.96.0.3") as dns:
        found = resolved(named, "large")
    assert sorted(found["large"].split()) == ["10.96.0.1", "10.96.0.2", "10.96.0.3"]
    assert "tcp A large.ns.svc.cluster.local" in dns.questions


def test_ipv6_is_looked_up_at_a_server_with_an_ipv6_address(daemon: Daemon, netns: NetworkNamespace) -> None:
    pod = Pod(daemon, netns_path=netns.path, options=packed(config(servers=["::1"])))
    with served(netns, "::1", six__example__org="2001:db8::7") as dns:
        found = resolved(pod, "6:six.example.org", "6:localhost")
    assert found == {"six.example.org": "2001:db8:0:0:0:0:0:7", "localhost": "0:0:0:0:0:0:0:1"}
    assert dns.questions == ["udp AAAA six.example.org"]
    pod.shutdown()
    pod.close()


def test_localhost_needs_no_server_and_what_is_nowhere_is_an_error(named: Pod, netns: NetworkNamespace) -> None:
    with served(netns) as dns:
        found = resolved(named, "localhost", "nowhere")
    assert found["localhost"] == "127.0.0.1"
    assert "error" in found["nowhere"]
    assert not any("localhost" in question for question in dns.questions)


def test_the_engines_own_hosts_and_resolv_conf_come_first(named: Pod, netns: NetworkNamespace, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.1.2.3 alias.of.the.pod alias\n")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.2\n")
    builder = named.with_wasm("resolve").args("alias", "plain", "/etc/hosts", "/etc/hostname")
    for name in ("hosts", "resolv.conf"):
        builder.mount(f"/etc/{name}", tmp_path / name)
    with served(netns, "127.0.0.2", plain="192.0.2.9"):
        container = builder.build().start()
        assert container.wait() == 0, container.stdout()
    assert container.stdout().splitlines() == [
        "alias: 10.1.2.3",
        "plain: 192.0.2.9",
        "/etc/hosts: 10.1.2.3 alias.of.the.pod alias",
        "/etc/hostname: pod-name",
    ]


def test_guests_see_the_files_also_in_execs_and_in_a_read_only_root(named: Pod) -> None:
    names = ("/etc/hostname", "/etc/resolv.conf", "/etc/hosts")
    container = named.with_wasm("resolve").args(*names).readonly().build().start()
    assert container.wait() == 0, container.stderr()
    text = container.stdout()
    assert "/etc/hostname: pod-name\n" in text
    assert "search ns.svc.cluster.local svc.cluster.local\nnameserver 127.0.0.1\noptions ndots:5\n" in text
    assert "127.0.0.1\tlocalhost\n" in text
    sleeping = named.with_wasm("sleep").build()
    (sleeping.rootfs / "look.wasm").write_bytes((container.rootfs / "app.wasm").read_bytes())
    sleeping.start().add_exec("e", "/look.wasm", "/etc/hostname", "localhost").start("e")
    assert sleeping.wait("e") == 0
    assert (sleeping.bundle / "e.out").read_text() == "/etc/hostname: pod-name\nlocalhost: 127.0.0.1\n"


def test_a_pod_of_the_hosts_network_has_its_own_resolver_and_the_hosts_name(daemon: Daemon) -> None:
    asked = PodSandboxConfig(dns_config={"servers": ["192.0.2.53"]})
    asked.linux.security_context.namespace_options.network = NODE
    pod = Pod(daemon, options=packed(asked))
    container = pod.with_wasm("resolve").args("/etc/hostname", "/etc/resolv.conf", "localhost").build().start()
    assert container.wait() == 0, container.stderr()
    assert container.stdout().splitlines() == [
        f"/etc/hostname: {os.uname().nodename}",
        "/etc/resolv.conf: nameserver 192.0.2.53",
        "localhost: 127.0.0.1",
    ]
    pod.shutdown()
    pod.close()


def test_a_worker_sees_nothing_but_these_files(named: Pod) -> None:
    worker = named.with_wasm("sleep").build().start()
    root = Path(f"/proc/{worker.pid}/root")
    assert sorted(os.listdir(root)) == ["etc"]
    assert sorted(os.listdir(root / "etc")) == ["hostname", "hosts", "nsswitch.conf", "resolv.conf"]
    assert os.path.samestat(os.stat(root), os.stat(f"/proc/{worker.pid}/cwd"))
    status = os.statvfs(root)
    safe = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC  # type: ignore[attr-defined]
    assert status.f_flag & safe == safe


def test_a_guest_without_a_network_has_the_files_and_no_resolver(daemon: Daemon) -> None:
    pod = Pod(daemon, options=packed(config()))
    builder = pod.with_wasm("sleep").linux(namespaces=[{"type": "network"}])
    worker = builder.build().start()
    assert os.listdir(f"/proc/{worker.pid}/root") == []
    look = pod.with_wasm("files").args("r /etc/hostname").linux(namespaces=[{"type": "network"}]).build().start()
    assert look.wait() == 0, look.stdout()
    pod.shutdown()
    pod.close()


def test_a_folder_that_is_mounted_on_etc_stays_as_it_is(named: Pod, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine\n")
    container = named.with_wasm("resolve").args("/etc/own", "localhost").mount("/etc", tmp_path).build().start()
    assert container.wait() == 0, container.stdout()
    assert os.listdir(tmp_path) == ["own"]


def test_the_files_go_with_the_sandbox_and_outlive_the_supervisor(netns: NetworkNamespace) -> None:
    with Daemon() as daemon:
        pod = Pod(daemon, netns_path=netns.path, options=packed(config()))
        files = daemon.dir / "pods" / pod.namespace / pod.id
        left = files.with_name("left-by-a-dead-supervisor")
        left.mkdir()
        daemon.kill()
        daemon.start()
        assert not left.exists()
        assert (files / "etc/hostname").read_text() == "pod-name\n"
        assert resolved(pod, "localhost") == {"localhost": "127.0.0.1"}
        pod.shutdown()
        pod.close()
        assert not files.exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (PodSandboxConfig(hostname="two words"), "hostname 'two words'"),
        (PodSandboxConfig(dns_config={"servers": ["dns.example.org"]}), "server 'dns.example.org' is not an IP"),
        (PodSandboxConfig(dns_config={"searches": ["a\nnameserver 1.2.3.4"]}), "is not one word"),
        (PodSandboxConfig(dns_config={"options": [""]}), "option '' is not one word"),
    ],
)
def test_a_config_that_would_mean_something_else_is_refused(daemon: Daemon, asked: PodSandboxConfig, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        Pod(daemon, options=packed(asked))
    assert not list(daemon.dir.glob("pods/*/pod*"))
