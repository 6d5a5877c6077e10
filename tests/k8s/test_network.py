"""Names and ports of pods."""

from __future__ import annotations

import socket
import time

from tests.harness.dns import Dns

from .cluster import DNS_ADDRESS, Cluster
from .kubectl import Kubectl
from .pods import container, pod
from .test_workloads import finished

GATEWAY = "10.89.64.1"


def test_names_are_looked_up_as_the_pod_says(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("resolve")
    config = {
        "nameservers": [GATEWAY],
        "searches": ["ns.svc.cluster.local"],
        "options": [{"name": "ndots", "value": "5"}],
    }
    aliases = [{"ip": "192.0.2.7", "hostnames": ["alias"]}]
    names = container("resolve", "web", "large", "alias", "localhost", "/etc/hostname")
    with Dns("0.0.0.0", web__ns__svc__cluster__local="10.96.0.7", large__ns__svc__cluster__local="10.96.0.8"):
        kubectl.apply(pod("p", names, dnsPolicy="None", dnsConfig=config, hostAliases=aliases))
        status = finished(kubectl, "p")
    said = kubectl.run("logs", "p")
    assert status == 0, said
    assert said.splitlines() == [
        "web: 10.96.0.7",
        "large: 10.96.0.8",
        "alias: 192.0.2.7",
        "localhost: 127.0.0.1",
        "/etc/hostname: p",
    ]


def test_the_clusters_resolver_is_in_resolv_conf_also_on_the_hosts_network(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("resolve")
    look = container("resolve", "/etc/resolv.conf", "localhost")
    kubectl.apply(pod("own", look), pod("host", look, hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"))
    for name in ("own", "host"):
        assert finished(kubectl, name) == 0, kubectl.run("logs", name)
        said = kubectl.run("logs", name)
        assert f"nameserver {DNS_ADDRESS}" in said
        assert f"search {kubectl.namespace}.svc.cluster.local svc.cluster.local cluster.local" in said


def test_a_guest_serves_on_port_80(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("serve")
    probe = {"tcpSocket": {"port": 80}, "periodSeconds": 1}
    serving = container("serve", "80", "from port 80", readinessProbe=probe, securityContext={"runAsUser": 1000})
    kubectl.apply(pod("p", serving))
    kubectl.wait("pod/p", "condition=Ready")
    address = kubectl.get("pod", "p")["status"]["podIP"]
    with socket.create_connection((address, 80), 10) as connection:
        assert connection.makefile().read() == "from port 80"


def test_sysctls_of_the_network_are_set_and_others_refused(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("serve")
    fitting = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "100"}]}
    unfit = {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}
    kubectl.apply(
        pod("set", container("serve", "80", "unheard"), securityContext=fitting),
        pod("refused", container("serve", "80", "unheard"), securityContext=unfit),
    )
    assert finished(kubectl, "set") == 1
    assert kubectl.run("logs", "set") == "cannot listen\n"
    said = event(kubectl, "refused", "FailedCreatePodSandBox")
    assert "sysctl kernel.shm_rmid_forced: not supported: a pod of WASM instances has its own for net.* only" in said


def event(kubectl: Kubectl, name: str, reason: str) -> str:
    """Wait for an event of a pod, and return its text."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        selector = f"--field-selector=involvedObject.name={name},reason={reason}"
        if found := kubectl.get("events", selector)["items"]:
            return str(found[0]["message"])
        time.sleep(0.2)
    raise AssertionError(f"no event {reason} of {name}")
