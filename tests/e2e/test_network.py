"""Pods with a network namespace of their own, set up by a CNI plug-in."""

from __future__ import annotations

import socket

from .node import SUBNET, Node


def test_a_guest_is_reached_at_its_pods_address(node: Node) -> None:
    with node.pod(network=True) as pod:
        address = node.cri.pod_status(pod.id).network.ip
        assert address.startswith(SUBNET.rsplit(".", 1)[0])
        container = pod.run("serve", "8080")
        container.wait_for_line("listening")
        with socket.create_connection((address, 8080), timeout=10) as connection:
            assert connection.makefile("rb").read() == b"hello over TCP\n"
        assert container.wait().exit_code == 0


def test_pods_do_not_share_ports(node: Node) -> None:
    with node.pod(network=True) as one, node.pod(network=True) as two:
        containers = [pod.run("serve", "8080") for pod in (one, two)]
        for container in containers:
            container.wait_for_line("listening")
        for pod in (one, two):
            address = (node.cri.pod_status(pod.id).network.ip, 8080)
            with socket.create_connection(address, timeout=10) as connection:
                assert connection.makefile("rb").read() == b"hello over TCP\n"
        assert [container.wait().exit_code for container in containers] == [0, 0]
