"""A guest that has broken out has the sockets that its network allows."""

from __future__ import annotations

import socket

import pytest

from ...harness.bare_forkserver import (
    NUMBERS,
    BareForkserver,
    forbidden,
    refused,
)


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"])
def test_without_a_network_there_are_no_sockets(forkserver: BareForkserver, family: str) -> None:
    outcome = forkserver.run("connect", str(int(getattr(socket, family))), "1", "")
    if forkserver.threads:
        assert refused(outcome) == "EACCES"
    else:
        forbidden(outcome, "socket")


def test_with_a_network_there_is_tcp_and_udp(forkserver: BareForkserver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for family, where in ((socket.AF_INET, port), (socket.AF_INET6, "")):
                outcome = forkserver.run("connect", str(int(family)), str(int(kind)), where, network=True)
                assert refused(outcome) == "done"
    assert refused(forkserver.run("bind", "2", "1", network=True)) == "done"


@pytest.mark.parametrize("where", ["", "@/tmp/.X11-unix/X0", "/run/containerd/containerd.sock"])
def test_a_network_is_no_way_to_the_hosts_services(forkserver: BareForkserver, where: str) -> None:
    outcome = forkserver.run("connect", str(int(socket.AF_UNIX)), "1", where, network=True)
    assert refused(outcome) == "EAFNOSUPPORT"


@pytest.mark.parametrize(
    ("family", "kind"),
    [("AF_INET", "SOCK_RAW"), ("AF_INET6", "SOCK_RAW"), ("AF_PACKET", "SOCK_RAW"), ("AF_VSOCK", "SOCK_STREAM")],
)
def test_other_sockets_are_forbidden_with_a_network_too(forkserver: BareForkserver, family: str, kind: str) -> None:
    numbers = (str(int(getattr(socket, name))) for name in (family, kind))
    forbidden(forkserver.run("connect", *numbers, "", network=True), "socket")


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("SOCK_STREAM", 262),  # MPTCP
        ("SOCK_STREAM", 132),  # SCTP
        ("SOCK_SEQPACKET", 132),
        ("SOCK_DGRAM", 136),  # UDP-Lite
        ("SOCK_DGRAM", 1),  # ICMP
        ("SOCK_DCCP", 33),
    ],
)
def test_protocols_beside_tcp_and_udp_are_forbidden(
    forkserver: BareForkserver, family: str, kind: str, protocol: int
) -> None:
    kinds = {"SOCK_DCCP": 6, **{name: int(value) for name, value in vars(socket).items() if name.startswith("SOCK_")}}
    numbers = (int(getattr(socket, family)), kinds[kind], protocol)
    forbidden(forkserver.run("call", str(NUMBERS["socket"]), *map(str, numbers), network=True), "socket")


@pytest.mark.parametrize(("kind", "protocol"), [(1, 6), (2, 17)])
def test_tcp_and_udp_may_be_asked_for_by_name(forkserver: BareForkserver, kind: int, protocol: int) -> None:
    call = ("call", str(NUMBERS["socket"]), "2", str(kind), str(protocol))
    assert refused(forkserver.run(*call, network=True)).startswith("done")


def test_netlink_is_refused(forkserver: BareForkserver) -> None:
    outcome = forkserver.run("connect", str(int(socket.AF_NETLINK)), "3", "", network=True)
    assert refused(outcome) == "EAFNOSUPPORT"


@pytest.mark.parametrize(
    ("level", "option"),
    [(1, 26), (1, 46), (1, 51), (0, 64), (0, 41), (6, 31), (6, 14), (6, 13), (41, 36), (17, 100), (263, 1)],
)
def test_options_that_wasi_has_no_name_for_are_forbidden(forkserver: BareForkserver, level: int, option: int) -> None:
    """Among them those that attach programs (SO_ATTACH_FILTER) or name kernel modules (TCP_ULP)."""
    number = str(NUMBERS["setsockopt"])
    forbidden(forkserver.run("call", number, "0", str(level), str(option), "@", "4", network=True), "setsockopt")
