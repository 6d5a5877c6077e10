"""Bad input gets a clear error, leaves nothing behind, and no other container notices."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from sandbox_api.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, Unimplemented
from sandbox_api.grpc_server import SANDBOX_SERVICE
from sandbox_api.proto import controller_pb2, ttrpc_pb2
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.ttrpc import frames
from supervisor.oci.wasi import PAGE, max_pages

from ..harness.container import Builder, Container, Pod
from ..harness.modules import wants_memory
from ..harness.ttrpc import Connection


@pytest.fixture(autouse=True)
def bystander(pod: Pod) -> Iterator[Container]:
    """A container that runs through each test here, and must not notice; and nothing may be left of the test's own."""
    container = pod.with_wasm("cat").fifos("stdin").build().start()
    yield container
    assert container.status() == "RUNNING"
    container.close_stdin()
    assert container.wait() == 0
    assert pod.daemon.mounts() == []


def create(builder: Builder) -> None:
    with Connection(builder.pod.daemon.task_socket) as connection:
        connection.call("Create", builder.request())


def refuses(builder: Builder, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as raised:
        create(builder)
    assert builder.id in str(raised.value)
    with Connection(builder.pod.daemon.task_socket) as connection, pytest.raises(NotFound):
        connection.call("State", pb.StateRequest(id=builder.id))


def start_refuses(builder: Builder, error: type[Exception], match: str) -> None:
    container = builder.build()
    before = {worker.pid for worker in builder.pod.daemon.workers()}
    with pytest.raises(error, match=match) as raised:
        container.start()
    assert builder.id in str(raised.value)
    assert container.status() == "CREATED"
    assert {worker.pid for worker in builder.pod.daemon.workers()} <= before
    container.delete()


def test_a_bundle_that_is_not_there(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    builder.bundle = builder.bundle / "elsewhere"
    refuses(builder, NotFound, "elsewhere: no such folder")


def test_a_bundle_without_config(pod: Pod) -> None:
    refuses(pod.with_wasm("hello"), InvalidArgument, r"config\.json: No such file")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "not an object"),
        ("{}", "process is missing"),
        ('{"process": {"args": []}, "root": {"path": "rootfs"}}', "args is empty"),
        ('{"process": {"args": ["/a"]}}', "root.path is missing"),
        ('{"process": {"args": "a"}, "root": {"path": "rootfs"}}', "process.args is str, not list"),
        ('{"process": {"args": ["/a"], "user": {"uid": -1}}, "root": {"path": "rootfs"}}', "uid"),
        ('{"process": {"args": ["/a"], "cwd": "x"}, "root": {"path": "rootfs"}}', "not an absolute path"),
        ('{"process": {"args": ["/a"]}, "root": {"path": "nowhere"}}', "no such folder"),
        ('{"process": {"args": ["/a"]}, "root": {"path": "/"}}', "the host's root"),
        ('{"process": {"args": ["/a"], "rlimits": [{"type": "RLIMIT_X"}]}, "root": {"path": "rootfs"}}', "RLIMIT_X"),
        ('{"process": {"args": ["/a"]}, "root": {"path": "rootfs"}, "mounts": [{"type": "nfs"}]}', "destination"),
        ('{"process": {"args": ["/a"]}, "root": {"path": "rootfs"}, "mounts": ["/x"]}', "not an object"),
    ],
)
def test_a_broken_config(pod: Pod, text: str, why: str) -> None:
    builder = pod.with_wasm("hello")
    (builder.bundle / "config.json").write_text(text)
    refuses(builder, InvalidArgument, why)


def test_a_config_that_is_a_fifo_holds_nobody_up(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    os.mkfifo(builder.bundle / "config.json")
    refuses(builder, InvalidArgument, "not a regular file")


def test_a_mount_of_a_type_that_is_not_served(pod: Pod) -> None:
    refuses(
        pod.with_wasm("hello").mount("/data", "server:/", kind="nfs").write(),
        InvalidArgument,
        "unsupported mount type 'nfs'",
    )


def test_a_mount_whose_source_is_not_there(pod: Pod) -> None:
    refuses(pod.with_wasm("hello").mount("/data", "/no/such/place").write(), InvalidArgument, "/no/such/place")


def test_a_container_of_a_sandbox_that_is_not_there(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    builder.config["annotations"]["io.kubernetes.cri.sandbox-id"] = "nobody"
    refuses(builder.write(), NotFound, "sandbox 'nobody'")


def test_a_container_in_a_stopped_sandbox(pod: Pod) -> None:
    other = Pod(pod.daemon)
    other.stop()
    refuses(other.with_wasm("hello").write(), FailedPrecondition, "it is notready")
    other.shutdown()
    other.close()


def test_a_container_that_says_of_no_sandbox_where_there_are_two(pod: Pod) -> None:
    other = Pod(pod.daemon)
    builder = pod.with_wasm("hello")
    del builder.config["annotations"]
    refuses(builder.write(), FailedPrecondition, "which of the 2 sandboxes")
    other.shutdown()
    other.close()


def test_the_bundles_sandbox_file_is_read(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    del builder.config["annotations"]
    (builder.bundle / "sandbox").write_text(pod.id)
    assert builder.build().start().wait() == 0


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 200, "sp ace"])
def test_an_id_that_is_no_id(pod: Pod, name: str) -> None:
    builder = pod.with_wasm("hello").write()
    builder.id = name
    with pytest.raises(InvalidArgument, match="an id is"):
        create(builder)


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_an_error_that_quotes_what_is_long_arrives(pod: Pod, letter: str) -> None:
    """gRPC's clients saw RESOURCE_EXHAUSTED, and lost their connection."""
    with grpc.insecure_channel(f"unix:{pod.daemon.listen}") as channel:
        status = channel.unary_unary(f"/{SANDBOX_SERVICE}/Status")
        with pytest.raises(grpc.RpcError) as refused:
            status(controller_pb2.ControllerStatusRequest(sandbox_id=letter * 20_000).SerializeToString(), timeout=20)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details().endswith("no such sandbox in namespace default")


def test_no_such_module(pod: Pod) -> None:
    start_refuses(pod.with_wasm("hello").entry("/other.wasm"), InvalidArgument, "module /other.wasm: No such file")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not begin with"),
        (b"#!/bin/sh\n", "does not begin with"),
        (b"\x7fELF" + b"\0" * 60, "does not begin with"),
        (b"\0asm\1\0\0\0\xff\xff\xff", "WasmEdge: .*malformed section id; Wasmtime: "),
        (b"\0asm\1\0\0\0\1", "WasmEdge: .*unexpected end; Wasmtime: "),
        (b"\0asm\1\0\0\0", "no function '_start'"),
        (b"(module)", r"not a WebAssembly module: it is in the text form \(\.wat\): convert it with wat2wasm"),
        (b";; generated\n(module)", "convert it with wat2wasm"),
        (b"\n(module)", "convert it with wat2wasm"),
    ],
)
def test_bytes_that_are_no_module(pod: Pod, content: bytes, why: str) -> None:
    builder = pod.with_wasm(content)
    start_refuses(builder, InvalidArgument, f"container {builder.id}: /app.wasm: .*{why}")


def test_a_function_that_a_module_does_not_have(pod: Pod) -> None:
    builder = pod.with_wasm("hello").entry("/app.wasm#absent")
    start_refuses(builder, InvalidArgument, "/app.wasm: the module exports no function 'absent'")


def test_a_memory_limit_below_the_modules_first_memory(pod: Pod) -> None:
    module = wants_memory(4096)
    allowed = max_pages(64 << 20, interpreted=len(module)) * PAGE >> 10
    builder = pod.with_wasm(module).linux(resources={"memory": {"limit": 64 << 20}})
    start_refuses(
        builder,
        InvalidArgument,
        "/app.wasm: cannot be instantiated: out of bounds memory access "
        rf"\(it wants 262144 KiB of memory from the start, and the memory limit allows {allowed} KiB\)",
    )


def test_a_module_that_is_a_fifo_holds_nobody_up(pod: Pod) -> None:
    builder = pod.with_wasm("hello").entry("/fifo.wasm")
    os.mkfifo(builder.rootfs / "fifo.wasm")
    start_refuses(builder, InvalidArgument, "not a regular file")


@contextmanager
def never_opened(path: Path) -> Iterator[None]:
    """Nobody opens what is there (inotify(7), IN_OPEN; not even O_PATH counts)."""
    libc = ctypes.CDLL(None, use_errno=True)
    events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(events, bytes(path), 0x20) >= 0
    try:
        yield
        with pytest.raises(BlockingIOError):
            os.read(events, 4096)
    finally:
        os.close(events)


@pytest.mark.parametrize("place", ["module", "config", "netns", "stdin", "stdout"])
def test_a_device_is_not_opened_to_find_out_that_it_is_one(pod: Pod, place: str) -> None:
    builder = pod.with_wasm("hello").entry("/device.wasm" if place == "module" else "/app.wasm")
    path = {"module": builder.rootfs / "device.wasm", "config": builder.bundle / "config.json"}.get(
        place, builder.bundle / "device"
    )
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    if place == "netns":
        builder.linux(namespaces=[{"type": "network", "path": str(path)}])
    elif place in ("stdin", "stdout"):
        builder.streams(**{place: path})
    with never_opened(path):
        if place == "config":
            refuses(builder, InvalidArgument, "not a regular file")
        else:
            start_refuses(builder, InvalidArgument, "regular file|not a network namespace")


def test_a_module_that_the_containers_user_may_not_read(pod: Pod) -> None:
    builder = pod.with_wasm("hello").process(user={"uid": 1234, "gid": 1234})
    (builder.rootfs / "app.wasm").chmod(0o600)
    start_refuses(builder, InvalidArgument, "may not read the module: .*Permission denied")


def test_an_import_that_nobody_gives(pod: Pod) -> None:
    start_refuses(pod.with_wasm("missing"), InvalidArgument, r"unknown import \(it wants nobody\.gives\)")


def test_functions_that_cannot_be_called(pod: Pod) -> None:
    start_refuses(pod.with_wasm("reactor"), InvalidArgument, "no function '_start'")
    start_refuses(pod.with_wasm("reactor").entry("/app.wasm#nothing"), InvalidArgument, "no function 'nothing'")
    start_refuses(pod.with_wasm("reactor").entry("/app.wasm#add"), InvalidArgument, "takes parameters")


def test_a_start_that_failed_may_be_tried_again(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    (builder.rootfs / "app.wasm").rename(builder.rootfs / "away")
    container = builder.build()
    with pytest.raises(InvalidArgument):
        container.start()
    (builder.rootfs / "away").rename(builder.rootfs / "app.wasm")
    assert container.start().wait() == 0


def test_a_limit_above_the_hosts_is_told(pod: Pod) -> None:
    builder = pod.with_wasm("hello").process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}])
    start_refuses(builder, Internal, "resource limits")


def test_a_frame_of_five_megabytes_ends_its_connection_only(pod: Pod, bystander: Container) -> None:
    connection = bystander.connect()
    connection.sock.sendall(struct.pack(">IIBB", 5 << 20, 1, frames.REQUEST, 0))
    response = connection.response(1)
    assert response.status.code == 8
    assert "5242880 bytes" in response.status.message
    assert connection.sock.recv(1) == b""


@pytest.mark.parametrize("data", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", struct.pack(">IIBB", 3, 1, 9, 0) + b"abc"])
def test_bytes_that_are_no_ttrpc_end_their_connection_only(bystander: Container, data: bytes) -> None:
    connection = bystander.connect()
    connection.sock.sendall(data)
    while connection.sock.recv(4096):
        pass


def test_a_message_that_is_no_request_is_answered(bystander: Container) -> None:
    connection = bystander.connect()
    connection.sock.sendall(frames.encode(1, frames.REQUEST, b"\xff\xff\xff"))
    assert connection.response(1).status.code == 3
    wrong = ttrpc_pb2.Request(service="containerd.task.v3.Task", method="State", payload=b"\xff\xff")
    connection.sock.sendall(frames.encode(3, frames.REQUEST, wrong.SerializeToString()))
    assert connection.response(3).status.code == 3
    connection.sock.sendall(frames.encode(4, frames.REQUEST, wrong.SerializeToString()))
    assert connection.response(4).status.code == 3


def test_a_method_that_nobody_has(bystander: Container) -> None:
    with pytest.raises(Unimplemented, match="Dance"):
        bystander.connection.call("Dance", pb.StateRequest(id=bystander.id))
    with pytest.raises(Unimplemented, match="Checkpoint"):
        bystander.connection.call("Checkpoint", pb.CheckpointTaskRequest(id=bystander.id))


def test_a_client_that_vanishes_in_the_middle(pod: Pod) -> None:
    container = pod.with_wasm("exit").args("4").build()
    waiter = container.wait_later()
    for request, method in [(pb.WaitRequest(id=container.id), "Wait"), (pb.StartRequest(id=container.id), "Start")]:
        connection = container.connect()
        connection.send(method, request)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    assert waiter.result().exit_status == 4


def test_half_a_frame_and_away(bystander: Container) -> None:
    connection = bystander.connect()
    connection.sock.sendall(frames.encode(1, frames.REQUEST, b"x" * 100)[:50])
    connection.close()


def test_config_with_unknown_members_is_fine(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    builder.config["hooks"] = {"prestart": [{"path": "/bin/true"}]}
    builder.config["vendor"] = json.loads('{"deep": [1, 2, {"x": null}]}')
    assert builder.build().start().wait() == 0
