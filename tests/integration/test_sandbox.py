"""The Sandbox API, dialect v2: all nine methods, their states and errors."""

from __future__ import annotations

import os
import platform
import signal
import time

import psutil
import pytest

from sandbox_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from sandbox_api.proto import controller_pb2 as pb

from ..harness.api import Api
from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.metrics import usage_of

pytestmark = pytest.mark.engines


@pytest.fixture
def api(daemon: Daemon) -> Api:
    return Api(daemon.listen)


def test_a_sandbox_from_create_to_shutdown(daemon: Daemon, api: Api) -> None:
    before = time.time_ns()
    api.create("life")
    assert api.status("life").state == "SANDBOX_NOTREADY"
    started = api.start("life")
    assert started.address == f"ttrpc+unix://{daemon.task_socket}"
    assert started.version == 3
    assert started.pid == daemon.process.pid
    assert before < started.created_at.ToNanoseconds() < time.time_ns()
    waiters = [api.wait("life") for _ in range(3)]
    status = api.status("life", verbose=True)
    assert (status.state, status.address, status.version) == ("SANDBOX_READY", started.address, 3)
    assert status.info["state"] == "ready"
    api.stop("life")
    ended = {waiter().exited_at.ToNanoseconds() for waiter in waiters}
    assert ended == {api.status("life").exited_at.ToNanoseconds()}
    assert api.wait("life")().exit_status == 0
    assert api.status("life").state == "SANDBOX_NOTREADY"
    api.stop("life")
    api.shutdown("life")
    api.stop("life")
    api.shutdown("life")
    for call in (api.status, api.start):
        with pytest.raises(NotFound, match="life"):
            call("life")
    with pytest.raises(NotFound, match="life"):
        api.wait("life")()


def test_an_id_is_taken_until_shutdown(api: Api) -> None:
    api.create("taken")
    with pytest.raises(AlreadyExists, match="taken"):
        api.create("taken")
    api.shutdown("taken")
    api.create("taken")
    api.shutdown("taken")


def test_start_only_once(api: Api) -> None:
    api.create("once")
    api.start("once")
    with pytest.raises(FailedPrecondition, match="it is ready"):
        api.start("once")
    api.stop("once")
    with pytest.raises(FailedPrecondition, match="it is notready"):
        api.start("once")
    api.shutdown("once")


def test_the_platform_is_the_hosts_in_gos_spelling(pod: Pod) -> None:
    answer = pod.api.call("Platform", pb.ControllerPlatformRequest(sandbox_id=pod.id))
    assert answer.platform.os == "linux"
    assert answer.platform.architecture == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def test_stop_gives_containers_time_and_then_kills_them(pod: Pod) -> None:
    polite = pod.with_wasm("sleep").build().start()
    unstarted = pod.with_wasm("sleep").build()
    pod.stop(timeout=10)
    assert polite.wait() == 128 + signal.SIGTERM
    assert unstarted.wait() == 128 + signal.SIGTERM
    assert pod.api.status(pod.id).state == "SANDBOX_NOTREADY"


def test_stop_without_time_kills_at_once(pod: Pod) -> None:
    container = pod.with_wasm("spin").build().start()
    pod.stop(timeout=0)
    assert container.wait() == 128 + signal.SIGKILL


def test_sigkill_follows_where_sigterm_does_nothing(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    os.kill(container.pid, signal.SIGSTOP)  # a stopped process does not die of SIGTERM
    while psutil.Process(container.pid).status() != psutil.STATUS_STOPPED:
        pass
    before = time.monotonic()
    pod.stop(timeout=1)
    assert 0.9 < time.monotonic() - before < 10
    assert container.wait() == 128 + signal.SIGKILL


def test_shutdown_of_what_runs_takes_all_with_it(daemon: Daemon) -> None:
    pod = Pod(daemon)
    waiter = pod.api.wait(pod.id)
    container = pod.with_wasm("sleep").mount("/scratch", kind="tmpfs").build().start()
    pod.shutdown()
    assert waiter().exit_status == 0
    with pytest.raises(NotFound):
        container.state()
    with pytest.raises(ProcessLookupError):
        os.kill(container.pid, 0)
    assert daemon.mounts() == []


def test_metrics_sum_the_containers(pod: Pod) -> None:
    def memory() -> int:
        answer = pod.api.call("Metrics", pb.ControllerMetricsRequest(sandbox_id=pod.id))
        assert answer.metrics.id == pod.id
        assert answer.metrics.timestamp.ToNanoseconds() > 0
        return usage_of(answer.metrics.data)

    assert memory() == 0
    pod.with_wasm("sleep").build().start()
    one = memory()
    pod.with_wasm("sleep").build().start()
    assert one > 0
    assert memory() > one


def test_update_replaces_labels(api: Api) -> None:
    api.create("labelled")
    request = pb.ControllerUpdateRequest(sandbox_id="labelled", fields=["labels"])
    request.sandbox.labels["colour"] = "blue"
    api.call("Update", request)
    assert api.start("labelled").labels == {"colour": "blue"}
    api.shutdown("labelled")
    with pytest.raises(NotFound):
        api.call("Update", request)


def test_a_network_namespace_that_is_none(api: Api, tmp_path: os.PathLike[str]) -> None:
    plain = os.path.join(tmp_path, "plain")
    open(plain, "w").close()
    for path, why in [(plain, "not a network namespace"), ("/no/such/netns", "No such file"), ("relative", "absolute")]:
        with pytest.raises(InvalidArgument, match=why):
            api.create("netless", netns_path=path)
    with pytest.raises(NotFound):
        api.status("netless")


def test_a_request_that_is_no_message(api: Api) -> None:
    import grpc

    with pytest.raises(grpc.RpcError) as raised:
        api.raw("Create", b"\xff\xff\xff")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_cancelled_wait_leaves_the_others(pod: Pod) -> None:
    first, second = pod.api.wait(pod.id), pod.api.wait(pod.id)
    first.cancel()
    pod.stop()
    assert second().exit_status == 0
