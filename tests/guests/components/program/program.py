"""A component's program, for tests: its first argument says what it does."""

import os
import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import (
    instance_network,
    ip_name_lookup,
    outgoing_handler,
    tcp_create_socket,
    udp_create_socket,
)
from wit_world.imports.network import IpAddressFamily, IpSocketAddress_Ipv4, Ipv4SocketAddress
from wit_world.imports.udp import OutgoingDatagram
from wit_world.imports.wasi_http_types import Fields, OutgoingRequest, Scheme_Http


def args(*arguments: str) -> None:
    print(*arguments, os.environ.get("NAME"), sep="\n")


def files(path: str) -> None:
    with open(path) as file:
        text = file.read()
    with open(f"{path}.copy", "w") as file:
        file.write(text.upper())


def cat() -> None:
    print(sys.stdin.read().upper(), end="")


def http(authority: str, path: str) -> None:
    request = OutgoingRequest(Fields())
    request.set_scheme(Scheme_Http())
    request.set_authority(authority)
    request.set_path_with_query(path)
    future = outgoing_handler.handle(request, None)
    future.subscribe().block()
    answer = future.get().value
    if isinstance(answer, Err):
        raise answer
    with answer.value.consume() as body, body.stream() as stream:
        print(answer.value.status(), end=" ")
        try:
            while True:
                print(stream.blocking_read(4096).decode(), end="")
        except Err:
            print()


def tcp(port: str) -> None:
    socket = tcp_create_socket.create_tcp_socket(IpAddressFamily.IPV4)
    socket.start_connect(
        instance_network.instance_network(), IpSocketAddress_Ipv4(Ipv4SocketAddress(int(port), (127, 0, 0, 1)))
    )
    socket.subscribe().block()
    incoming, _ = socket.finish_connect()
    print(incoming.blocking_read(4096).decode())


def serve(port: str) -> None:
    """Greets one client."""
    socket = tcp_create_socket.create_tcp_socket(IpAddressFamily.IPV4)
    address = IpSocketAddress_Ipv4(Ipv4SocketAddress(int(port), (127, 0, 0, 1)))
    socket.start_bind(instance_network.instance_network(), address)
    socket.finish_bind()
    socket.start_listen()
    socket.finish_listen()
    print("listening", flush=True)
    socket.subscribe().block()
    client, incoming, outgoing = socket.accept()
    with client, incoming, outgoing:
        outgoing.blocking_write_and_flush(b"hello from a component")


def udp(port: str, text: str) -> None:
    """Sends a datagram, and prints the answer to it."""
    socket = udp_create_socket.create_udp_socket(IpAddressFamily.IPV4)
    network = instance_network.instance_network()
    socket.start_bind(network, IpSocketAddress_Ipv4(Ipv4SocketAddress(0, (127, 0, 0, 1))))
    socket.finish_bind()
    incoming, outgoing = socket.stream(None)
    outgoing.check_send()
    server = IpSocketAddress_Ipv4(Ipv4SocketAddress(int(port), (127, 0, 0, 1)))
    outgoing.send([OutgoingDatagram(text.encode(), server)])
    incoming.subscribe().block()
    (answer,) = incoming.receive(1)
    print(answer.remote_address.value.port, answer.data.decode())


def resolve(name: str) -> None:
    found = ip_name_lookup.resolve_addresses(instance_network.instance_network(), name)
    found.subscribe().block()
    while address := found.resolve_next_address():
        print(*address.value, sep=".")


class Run(exports.Run):
    def run(self) -> None:
        name, *arguments = sys.argv[1:]
        try:
            {each.__name__: each for each in (args, files, cat, http, tcp, serve, udp, resolve)}[name](*arguments)
        except Err as error:
            print("error:", error.value)
            raise Err(None) from None
