"""Pods with a network namespace of their own, set up by a CNI plug-in."""

from __future__ import annotations

import socket

from .containerd import SUBNET
from .node import Node


def answer(address: str) -> bytes:
    with socket.create_connection((address, 8080), timeout=10) as connection:
        return connection.makefile("rb").read()


def test_a_guest_is_reached_at_its_pods_address(node: Node) -> None:
    with node.pod(network=True) as pod:
        address = node.cri.pod_status(pod.id).network.ip
        assert address.startswith(SUBNET.rsplit(".", 1)[0])
        pod.run("serve", "8080", "hello over TCP").wait_for_line("listening")
        assert answer(address) == b"hello over TCP"


def test_pods_do_not_share_ports(node: Node) -> None:
    with node.pod(network=True) as one, node.pod(network=True) as two:
        for name, pod in (("one", one), ("two", two)):
            pod.run("serve", "8080", name).wait_for_line("listening")
        addresses = [node.cri.pod_status(pod.id).network.ip for pod in (one, two)]
        assert [answer(address) for address in addresses] == [b"one", b"two"]


def test_containers_of_a_pod_share_its_network(node: Node) -> None:
    with node.pod(network=True) as pod:
        pod.run("serve", "8080", "the first").wait_for_line("listening")
        second = pod.run("serve", "8080", "the second")
        assert second.wait().exit_code == 1
        assert second.lines() == ["cannot listen"]
