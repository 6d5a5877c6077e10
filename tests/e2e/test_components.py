"""A real component, CPython with a program in it, by Wasmtime: WASI 0.2's command line, files, sockets and HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from google.protobuf.any_pb2 import Any

from sandbox_api.proto.pod_config_pb2 import PodSandboxConfig

from ..harness.componentized import program
from ..harness.container import Builder, Pod
from ..harness.daemon import Daemon
from ..harness.dns import Dns
from ..harness.guests import CACHE
from ..harness.netns import NetworkNamespace

_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"you asked for {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
with http.server.HTTPServer(("127.0.0.1", 8080), Handler) as server:
    print("listening", flush=True)
    server.serve_forever()
"""
_GREETER = """
import socket
with socket.create_server(("127.0.0.1", 8081)) as server:
    print("listening", flush=True)
    while True:
        with server.accept()[0] as client:
            client.sendall(b"hello over TCP")
"""
_ECHO = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 8083))
    print("listening", flush=True)
    while True:
        text, client = server.recvfrom(4096)
        server.sendto(text.upper(), client)
"""


@pytest.fixture(scope="module")
def sandboxer() -> Iterator[Daemon]:
    """A sandboxer that keeps what it compiles: this takes it a while."""
    with Daemon("--cache-dir", str(CACHE / "aot")) as running:
        yield running


@pytest.fixture
def netns() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as made:
        made.serve(_SERVER)
        made.serve(_GREETER)
        made.serve(_ECHO)
        yield made


@pytest.fixture
def pod(sandboxer: Daemon, netns: NetworkNamespace) -> Iterator[Pod]:
    made = Pod(sandboxer, netns_path=netns.path)
    yield made
    made.shutdown()
    made.close()


def told(builder: Builder, status: int = 0) -> str:
    """Its output, once it has ended with this status."""
    container = builder.build()
    container.connection.sock.settimeout(300)  # the first is compiled before it starts
    assert container.start().wait() == status, container.stderr()
    return container.stdout()


def test_arguments_environment_files_and_input(pod: Pod) -> None:
    assert told(pod.with_wasm(program()).args("args", "one", "two words").env(NAME="a value")) == (
        "one\ntwo words\na value\n"
    )
    copied = pod.with_wasm(program()).args("files", "/text").file("text", "some text")
    told(copied)
    assert (copied.rootfs / "text.copy").read_text() == "SOME TEXT"
    reading = pod.with_wasm(program()).args("cat").fifos("stdin").build().start()
    (reading.bundle / "stdin").write_text("some input\n")
    assert reading.wait() == 0
    assert reading.stdout() == "SOME INPUT\n"


def test_an_error_of_run_is_status_1(pod: Pod) -> None:
    assert told(pod.with_wasm(program()).args("tcp", "9"), 1) == "error: ErrorCode.CONNECTION_REFUSED\n"


def test_http_and_tcp_reach_servers_in_the_pods_network(pod: Pod) -> None:
    http = pod.with_wasm(program()).args("http", "127.0.0.1:8080", "/a/path?with=query")
    assert told(http) == "200 you asked for /a/path?with=query\n"
    assert told(pod.with_wasm(program()).args("tcp", "8081")) == "hello over TCP\n"


def test_datagrams_are_sent_and_answered_in_the_pods_network(pod: Pod) -> None:
    assert told(pod.with_wasm(program()).args("udp", "8083", "a datagram")) == "8083 A DATAGRAM\n"


def test_it_serves_in_the_pods_network(pod: Pod, netns: NetworkNamespace) -> None:
    builder = pod.with_wasm(program()).args("serve", "8082").fifos("stdout")
    container = builder.build()
    container.connection.sock.settimeout(300)
    fifo = os.open(builder.bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fifo, True)
    container.start()
    with open(fifo) as output:
        assert output.readline() == "listening\n"
        assert netns.read(8082) == "hello from a component"
    assert container.wait() == 0


def test_names_are_looked_up_at_the_pods_server(sandboxer: Daemon, netns: NetworkNamespace) -> None:
    config = PodSandboxConfig(dns_config={"servers": ["127.0.0.1"]})
    packed = Any(type_url="runtime.v1.PodSandboxConfig", value=config.SerializeToString())
    named = Pod(sandboxer, netns_path=netns.path, options=packed)
    with Dns("127.0.0.1", prefix=["nsenter", f"--net={netns.path}"], web__example__org="192.0.2.7"):
        assert told(named.with_wasm(program()).args("resolve", "web.example.org")) == "192.0.2.7\n"
    named.shutdown()
    named.close()


@pytest.mark.parametrize("what", [("tcp", "8081"), ("udp", "8083", "a datagram"), ("http", "127.0.0.1:8080", "/")])
def test_without_a_network_all_are_errors_that_the_guest_sees(pod: Pod, what: tuple[str, ...]) -> None:
    """The container has a network namespace of its own, with nothing in it."""
    lonely = Pod(pod.daemon)
    said = told(lonely.with_wasm(program()).args(*what).linux(namespaces=[{"type": "network"}]), 1)
    assert said.startswith("error: ErrorCode")
    lonely.shutdown()
    lonely.close()
