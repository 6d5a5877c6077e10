"""``--metrics``: what Prometheus reads is what happened."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sandbox_api.errors import ResourceExhausted, SandboxerError
from supervisor.commands.client import UnixConnection
from supervisor.services.metrics import EXIT_KINDS

from ..harness.container import Pod
from ..harness.daemon import Daemon

SECONDS = 30
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(path: Path) -> Samples:
    connection = UnixConnection(path)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.read().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


class Node:
    """A daemon with metrics, and what it says."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.daemon = daemon
        self.path = path

    def value(self, name: str, **labels: str) -> float:
        return scrape(self.path)[f"wasm_sandboxer_{name}", tuple(sorted(labels.items()))]

    def until(self, name: str, least: float, **labels: str) -> None:
        deadline = time.monotonic() + SECONDS
        while self.value(name, **labels) < least:
            assert time.monotonic() < deadline, f"{name} {labels}: {self.value(name, **labels)}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    path = tmp_path_factory.mktemp("m") / "s"
    with Daemon("--metrics", f"unix:{path}") as daemon:
        yield Node(daemon, path)


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    made = Pod(node.daemon)
    yield made
    made.shutdown()
    made.close()


def test_containers_and_sandboxes_are_counted_by_state(node: Node, pod: Pod) -> None:
    before = node.value("containers", state="running")
    pod.with_wasm("sleep").args("1000").build().start()
    pod.with_wasm("sleep").build()
    assert node.value("containers", state="running") == before + 1
    assert node.value("containers", state="created") == 1
    assert node.value("processes", state="running") == before + 1
    assert node.value("sandboxes", state="ready") == 1


def test_a_start_is_timed_by_stage(node: Node, pod: Pod) -> None:
    stages = ("spec", "mounts", "group", "fork", "load", "ready")
    before = {stage: node.value("start_stage_seconds_count", stage=stage) for stage in stages}
    resources = {"memory": {"limit": 64 << 20}}
    pod.with_wasm("hello").linux(resources=resources).build().start().wait()
    after = {stage: node.value("start_stage_seconds_count", stage=stage) for stage in stages}
    assert {stage: after[stage] - before[stage] for stage in stages} == dict.fromkeys(stages, 1)
    assert (
        0 < node.value("start_stage_seconds_sum", stage="fork") < node.value("start_stage_seconds_sum", stage="ready")
    )
    last = node.value("start_stage_seconds_bucket", stage="ready", le="+Inf")
    assert last == after["ready"]


@pytest.mark.parametrize(
    ("guest", "args", "kind"),
    [("hello", [], "zero"), ("exit", ["9"], "nonzero"), ("trap", [], "trap"), ("sleep", ["1000"], "signal")],
)
def test_exits_are_counted_by_kind(node: Node, pod: Pod, guest: str, args: list[str], kind: str) -> None:
    before = node.value("exits_total", kind=kind)
    container = pod.with_wasm(guest).args(*args).build().start()
    if kind == "signal":
        container.kill(signal.SIGTERM)
    container.wait()
    assert node.value("exits_total", kind=kind) == before + 1


def test_a_forbidden_system_call_and_a_kill_for_memory_are_kinds_of_exits(node: Node, pod: Pod) -> None:
    before = {kind: node.value("exits_total", kind=kind) for kind in EXIT_KINDS}
    without_network = pod.with_wasm("conformance_sockets").linux(namespaces=[{"type": "network"}])
    assert without_network.build().start().wait() == 128 + signal.SIGSYS
    filling = pod.with_wasm("fill").args("/shm/file").mount("/shm", "tmpfs", "tmpfs")
    filling.linux(resources={"memory": {"limit": 32 << 20, "swap": 32 << 20}})
    assert filling.build().start().wait() == 128 + signal.SIGKILL
    after = {kind: node.value("exits_total", kind=kind) for kind in EXIT_KINDS}
    assert {kind for kind in EXIT_KINDS if after[kind] == before[kind] + 1} == {"forbidden_call", "memory"}
    assert sum(after.values()) == sum(before.values()) + 2


def test_images_and_starts_from_them_are_counted(node: Node, pod: Pod) -> None:
    images, starts = node.value("module_images"), node.value("module_image_starts_total")
    deadline = time.monotonic() + SECONDS
    while node.value("module_image_starts_total") == starts:
        assert time.monotonic() < deadline
        pod.with_wasm("cat").build().start().wait()
    assert node.value("module_images") >= images + 1
    assert node.value("module_image_events_total", kind="made") >= images + 1
    assert node.value("module_image_bytes") > 4096


def test_zygotes_memory_and_files(tmp_path: Path) -> None:
    with Daemon("--metrics", f"unix:{tmp_path}/s") as daemon:
        node, pod = Node(daemon, tmp_path / "s"), Pod(daemon)
        pod.with_wasm("hello").build().start().wait()
        for name in ("zygote-root", "zygote-worker"):
            assert node.value("helper_resident_memory_bytes", helper=name) > 1 << 20
            assert node.value("helper_open_fds", helper=name) >= 3
        pod.shutdown()
        pod.close()


def test_calls_are_counted_by_method_and_code(node: Node, pod: Pod) -> None:
    container = pod.with_wasm("sleep").args("1000").build().start()
    waiting = node.value("calls_under_way", api="task", method="Wait")
    waiter = container.wait_later().arrived()
    assert node.value("calls_under_way", api="task", method="Wait") == waiting + 1
    with pytest.raises(SandboxerError):
        container.start()
    assert node.value("calls_total", api="task", method="Start", code="FAILED_PRECONDITION") >= 1
    container.kill(signal.SIGKILL)
    waiter.result()
    assert node.value("calls_under_way", api="task", method="Wait") == waiting
    with pytest.raises(SandboxerError):
        pod.api.status("nobody")
    assert node.value("calls_total", api="sandbox", method="Status", code="NOT_FOUND") >= 1


def test_refusals_are_counted_by_reason(node: Node, pod: Pod) -> None:
    before = node.value("refusals_total", reason="memory")
    container = pod.with_wasm("sleep").linux(resources={"memory": {"limit": 1 << 16}}).build()
    with pytest.raises(ResourceExhausted, match="memory limit"):
        container.start()
    assert node.value("refusals_total", reason="memory") == before + 1
    assert node.value("calls_total", api="task", method="Start", code="RESOURCE_EXHAUSTED") >= 1


def test_compiles_and_their_use_are_counted(node: Node, pod: Pod) -> None:
    def starts() -> float:
        hits = [node.value("module_hits_total", level=level) for level in ("O0", "O2")]
        return node.value("module_misses_total") + sum(hits)

    before = starts()
    pod.with_wasm("args").build().start().wait()
    assert starts() == before + 1
    node.until("compile_seconds_count", 1, level="O2")
    deadline = time.monotonic() + SECONDS
    hits = node.value("module_hits_total", level="O2")
    while node.value("module_hits_total", level="O2") == hits:
        assert time.monotonic() < deadline
        pod.with_wasm("args").build().start().wait()


def test_helpers_deaths_memory_and_files(node: Node, pod: Pod) -> None:
    for helper in ("supervisor", "forkserver", "relay"):
        assert node.value("helper_resident_memory_bytes", helper=helper) > 1 << 20
        assert node.value("helper_open_fds", helper=helper) >= 3
    relay = next(each for each in node.daemon.helpers() if "/relay-" in " ".join(each.cmdline()))
    before = node.value("helper_deaths_total", helper="relay")
    relay.kill()
    node.until("helper_deaths_total", before + 1, helper="relay")


def test_transactions_and_recovery_are_timed(node: Node, pod: Pod) -> None:
    before = node.value("transaction_seconds_count")
    pod.with_wasm("hello").build().start().wait()
    assert node.value("transaction_seconds_count") > before
    assert node.value("recovery_seconds") > 0


def test_the_listener_serves_nothing_but_metrics() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Daemon("--metrics", f"127.0.0.1:{port}"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        connection.request("GET", "/metrics")
        assert b"wasm_sandboxer_info{" in connection.getresponse().read()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        connection.request("GET", "/containers")
        assert connection.getresponse().status == 404
        other = Daemon("--metrics", f"127.0.0.1:{port}")
        try:
            with pytest.raises(AssertionError, match="Address already in use: choose another address"):
                other.start()
        finally:
            other.__exit__()
