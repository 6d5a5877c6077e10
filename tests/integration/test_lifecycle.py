"""A container from Create to Delete, and how its end is told."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sandbox_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Pod

pytestmark = pytest.mark.engines


def test_a_container_is_created_runs_ends_and_is_deleted(pod: Pod) -> None:
    container = pod.with_wasm("hello").build()
    assert container.status() == "CREATED"
    container.start()
    assert container.wait() == 0
    assert container.stdout() == "hello from WASI\n"
    state = container.state()
    assert (pb.Status.Name(state.status), state.pid, state.bundle) == ("STOPPED", container.pid, str(container.bundle))
    deleted = container.delete()
    assert (deleted.pid, deleted.exit_status) == (container.pid, 0)
    with pytest.raises(NotFound, match=container.id):
        container.state()


@pytest.mark.parametrize(("wanted", "seen"), [(0, 0), (7, 7), (255, 255), (256 + 9, 9)])
def test_the_guests_own_status_is_told(pod: Pod, wanted: int, seen: int) -> None:
    container = pod.with_wasm("exit").args(str(wanted)).build().start()
    assert container.wait() == seen
    assert container.state().exit_status == seen
    assert container.delete().exit_status == seen


@pytest.mark.engines("auto")  # Wasmtime's words are others: test_wasmtime.py
def test_a_trap_is_134_with_the_trap_on_stderr(pod: Pod) -> None:
    container = pod.with_wasm("trap").build().start()
    assert container.wait() == 134
    assert container.stdout() == "about to trap\n"
    assert container.stderr() == "wasm trap: unreachable\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_signal_is_128_and_its_number(pod: Pod, number: int) -> None:
    container = pod.with_wasm("sleep").build().start()
    container.kill(number)
    assert container.wait() == 128 + number


def test_the_time_of_exit_is_told_alike_everywhere(pod: Pod) -> None:
    before = time.time_ns()
    container = pod.with_wasm("hello").build().start()
    answer = container.connection.call("Wait", pb.WaitRequest(id=container.id))
    at = answer.exited_at.ToNanoseconds()
    assert before < at < time.time_ns()
    assert container.state().exited_at.ToNanoseconds() == at
    assert container.delete().exited_at.ToNanoseconds() == at


def test_wait_answers_before_start_while_it_runs_and_after_the_end(pod: Pod) -> None:
    container = pod.with_wasm("exit").args("5").build()
    early = [container.wait_later() for _ in range(3)]
    container.start()
    meanwhile = container.wait_later()
    assert [waiter.result().exit_status for waiter in [*early, meanwhile]] == [5] * 4
    assert container.wait() == 5


def test_a_wait_for_what_is_deleted_unstarted_is_answered(pod: Pod) -> None:
    container = pod.with_wasm("hello").build()
    waiter = container.wait_later().arrived()
    container.delete()
    with pytest.raises(NotFound):
        waiter.result()


def test_two_hundred_short_instances_at_once_lose_no_status(pod: Pod) -> None:
    containers = [pod.with_wasm("exit").args(str(n % 200)).build() for n in range(200)]
    streams = [each.connection.send("Start", pb.StartRequest(id=each.id)) for each in containers]
    waiters = [each.wait_later() for each in containers]
    for each, stream in zip(containers, streams, strict=True):
        each.connection.receive(stream, "Start")
    assert [waiter.result().exit_status for waiter in waiters] == [n % 200 for n in range(200)]
    assert [each.delete().exit_status for each in containers] == [n % 200 for n in range(200)]
    for each in containers:
        each.connection.close()


def test_nothing_stays_a_zombie(pod: Pod) -> None:
    containers = [pod.with_wasm("hello").build().start() for _ in range(5)]
    assert [each.wait() for each in containers] == [0] * 5
    deadline = time.monotonic() + 5
    while pod.daemon.zombies():  # an exit is told before it is buried
        assert time.monotonic() < deadline


def test_start_twice_is_refused_in_each_state(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    with pytest.raises(FailedPrecondition, match="it is running"):
        container.start()
    container.kill(signal.SIGKILL)
    container.wait()
    with pytest.raises(FailedPrecondition, match="it is stopped"):
        container.start()


def test_delete_of_what_runs_is_refused(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    with pytest.raises(FailedPrecondition, match="it is running"):
        container.delete()
    assert container.status() == "RUNNING"


def test_an_id_is_taken_until_it_is_deleted(pod: Pod) -> None:
    builder = pod.with_wasm("hello")
    container = builder.build()
    with pytest.raises(AlreadyExists, match=container.id):
        container.connection.call("Create", builder.request())
    container.delete()
    container.connection.call("Create", builder.request())


def test_kill_of_what_has_ended_is_not_found(pod: Pod) -> None:
    container = pod.with_wasm("hello").build().start()
    container.wait()
    for everyone in (False, True):
        with pytest.raises(NotFound, match=container.id):
            container.kill(signal.SIGKILL, everyone)


@pytest.mark.parametrize("number", [65, 9999])
def test_there_is_no_such_signal(pod: Pod, number: int) -> None:
    container = pod.with_wasm("sleep").build().start()
    with pytest.raises(InvalidArgument, match=f"no signal {number}"):
        container.kill(number)
    assert container.status() == "RUNNING"


def test_kill_ends_what_was_never_started(pod: Pod) -> None:
    container = pod.with_wasm("hello").build()
    waiter = container.wait_later()
    container.kill(signal.SIGWINCH)
    assert container.status() == "CREATED"
    container.kill(signal.SIGTERM)
    assert waiter.result().exit_status == 128 + signal.SIGTERM
    with pytest.raises(FailedPrecondition, match="it is stopped"):
        container.start()


def test_pids_and_connect_name_the_worker(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build()
    container.start()
    pids = container.connection.call("Pids", pb.PidsRequest(id=container.id)).processes
    assert [each.pid for each in pids] == [container.pid]
    connected = container.connection.call("Connect", pb.ConnectRequest(id=container.id))
    assert connected.task_pid == container.pid
    assert connected.shim_pid == pod.daemon.process.pid
    os.kill(container.pid, 0)


def test_both_names_of_the_service_are_served(pod: Pod) -> None:
    container = pod.with_wasm("hello").build()
    for service in ("containerd.task.v2.Task", "containerd.task.v3.Task"):
        answer = container.connection.call("State", pb.StateRequest(id=container.id), service)
        assert answer.id == container.id


def test_ids_are_unique_within_a_namespace_only(pod: Pod) -> None:
    other = Pod(pod.daemon, namespace="other")
    one = pod.with_wasm("hello")
    two = other.with_wasm("exit").args("3")
    two.id = one.id
    first, second = one.build(), two.build()
    second.start()
    assert (second.wait(), first.status()) == (3, "CREATED")
    other.shutdown()
    other.close()
