"""The life of containers, as the kubelet drives it through containerd."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import grpc
import pytest

from . import cri_pb2 as pb
from .node import Container, Node, Pod


def pid_of(container: Container) -> int:
    info = json.loads(container.cri.verbose_status(container.id).info["info"])
    return int(info["pid"])


def test_a_pod_is_ready_and_then_gone(node: Node) -> None:
    config = node.pod_config()
    pod = node.cri.run_pod(config, "wasm")
    assert node.cri.pod_status(pod).state == pb.SANDBOX_READY
    assert node.cri.pod_status(pod).runtime_handler == "wasm"
    assert pod in [each.id for each in node.cri.pods()]

    node.cri.stop_pod(pod)
    assert node.cri.pod_status(pod).state == pb.SANDBOX_NOTREADY
    node.cri.stop_pod(pod)  # the kubelet does so more than once

    node.cri.remove_pod(pod)
    assert pod not in [each.id for each in node.cri.pods()]
    node.cri.remove_pod(pod)


def test_a_container_goes_from_created_over_running_to_exited(pod: Pod) -> None:
    container = pod.create("sleep", "3600")
    assert pod.node.cri.status(container.id).state == pb.CONTAINER_CREATED

    container.start()
    running = pod.node.cri.status(container.id)
    assert running.state == pb.CONTAINER_RUNNING
    assert running.started_at >= running.created_at > 0
    assert container.id in [each.id for each in pod.node.cri.containers()]

    pod.node.cri.stop(container.id)
    ended = pod.node.cri.status(container.id)
    assert ended.state == pb.CONTAINER_EXITED
    assert ended.finished_at >= ended.started_at

    container.remove()
    with pytest.raises(grpc.RpcError) as error:
        pod.node.cri.status(container.id)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("image", "args", "status", "reason"),
    [
        ("hello", (), 0, "Completed"),
        ("exit", ("7",), 7, "Error"),
        ("exit", ("255",), 255, "Error"),
        ("trap", (), 134, "Error"),
    ],
)
def test_a_guests_own_end_is_its_exit_code(
    pod: Pod, image: str, args: tuple[str, ...], status: int, reason: str
) -> None:
    ended = pod.run(image, *args).wait()
    assert ended.exit_code == status
    assert ended.reason == reason


def test_a_killed_guest_ends_with_128_and_the_signal(pod: Pod) -> None:
    container = pod.run("sleep", "3600")
    os.kill(pid_of(container), signal.SIGKILL)
    assert container.wait().exit_code == 137


def test_output_lands_line_by_line_in_the_log_with_time_and_stream(pod: Pod) -> None:
    container = pod.run("exit", "3")
    container.wait()
    assert container.lines("stderr") == ["ending with 3"]
    assert container.lines("stdout") == []
    (line,) = container.log.read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d) stderr F ending with 3", line)


def test_all_output_is_in_the_log_when_the_container_has_ended(pod: Pod) -> None:
    container = pod.run("flood", "20000")
    assert container.wait().exit_code == 0
    lines = container.lines("stdout")
    assert len(lines) == 20000
    assert lines[-1].startswith("line 20000 of 20000 ")


def test_a_trap_leaves_the_output_before_it_and_a_reason_on_stderr(pod: Pod) -> None:
    container = pod.run("trap")
    container.wait()
    assert container.lines("stdout") == ["about to trap"]
    assert container.lines("stderr"), "nothing on stderr tells why it ended"


def test_a_rotated_log_is_reopened(pod: Pod) -> None:
    container = pod.run("tick", "1000")
    container.wait_for_line("tick 1")
    rotated = container.log.rename(container.log.with_suffix(".old"))
    pod.node.cri.reopen_log(container.id)
    last = rotated.read_text().splitlines()[-1].rsplit(" ", 1)[-1]
    container.wait_for_line(f"tick {int(last) + 5}")


def test_stop_with_a_grace_sends_sigterm_and_does_not_wait_for_the_grace_to_pass(pod: Pod) -> None:
    container = pod.run("sleep", "3600")
    begun = time.monotonic()
    pod.node.cri.stop(container.id, grace=30)
    assert time.monotonic() - begun < 10
    assert pod.node.cri.status(container.id).exit_code == 143


def test_stop_without_a_grace_kills(pod: Pod) -> None:
    container = pod.run("spin")
    pod.node.cri.stop(container.id)
    assert pod.node.cri.status(container.id).exit_code == 137


def test_stop_of_what_has_ended_is_no_error(pod: Pod) -> None:
    container = pod.run("exit", "7")
    container.wait()
    pod.node.cri.stop(container.id, grace=5)
    assert pod.node.cri.status(container.id).exit_code == 7


def test_a_running_container_can_be_removed(pod: Pod) -> None:
    container = pod.run("sleep", "3600")
    worker = pid_of(container)
    container.remove()
    assert container.id not in [each.id for each in pod.node.cri.containers()]
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_container_that_was_never_started_can_be_removed(pod: Pod) -> None:
    container = pod.create("hello")
    container.remove()
    assert container.id not in [each.id for each in pod.node.cri.containers()]


def test_a_module_that_cannot_run_fails_the_start_and_says_why(pod: Pod) -> None:
    container = pod.create("missing")
    with pytest.raises(grpc.RpcError) as error:
        container.start()
    assert "import" in str(error.value.details())
    ended = pod.node.cri.status(container.id)
    assert ended.state == pb.CONTAINER_EXITED
    assert ended.message


def test_a_memory_limit_bounds_the_guests_memory(pod: Pod) -> None:
    inside = pod.create("memory", "16", memory=64 << 20)
    inside.start()
    assert inside.wait().exit_code == 0
    outside = pod.create("memory", "128", memory=64 << 20)
    outside.start()
    assert outside.wait().exit_code == 1
    assert outside.lines("stdout") == ["refused"]


def test_stopping_a_pod_ends_its_containers(node: Node) -> None:
    with node.pod() as pod:
        container = pod.run("sleep", "3600")
        node.cri.stop_pod(pod.id)
        assert node.cri.status(container.id).state == pb.CONTAINER_EXITED


def test_two_pods_at_once_are_of_no_concern_to_each_other(node: Node) -> None:
    with node.pod() as one, node.pod() as two:
        ones, twos = one.run("sleep", "3600"), two.run("tick", "100000")
        exits = [pod.run("exit", str(status)) for status, pod in enumerate((one, two, one, two), 40)]
        assert [container.wait().exit_code for container in exits] == [40, 41, 42, 43]
        assert [container.lines("stderr") for container in exits] == [[f"ending with {n}"] for n in range(40, 44)]

        node.cri.stop_pod(one.id)
        assert node.cri.status(ones.id).state == pb.CONTAINER_EXITED
        assert node.cri.status(twos.id).state == pb.CONTAINER_RUNNING
        count = len(twos.lines())
        twos.wait_for_line(f"tick {count + 5}")


def test_a_crash_loop_leaves_nothing_behind(node: Node) -> None:
    workers, mounts = len(node.sandboxer.workers()), len(node.sandboxer.mounts())
    with node.pod() as pod:
        for attempt in range(20):
            container = pod.create("exit", "7", name="crashes")
            container.start()
            assert container.wait().exit_code == 7, f"attempt {attempt}"
            container.remove()
            pod.made.remove(container.id)
        assert [each for each in node.cri.containers() if each.pod_sandbox_id == pod.id] == []
    assert len(node.sandboxer.workers()) == workers
    assert len(node.sandboxer.mounts()) == mounts
