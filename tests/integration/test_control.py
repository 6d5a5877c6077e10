"""Pause, resume, update of limits, and running out of memory."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument, NotFound
from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Collected, Container, Pod
from ..harness.daemon import Daemon
from ..harness.names import RUN
from ..harness.receiver import Receiver

pytestmark = pytest.mark.engines


def pause(container: Container) -> None:
    container.connection.call("Pause", pb.PauseRequest(id=container.id))


def resume(container: Container) -> None:
    container.connection.call("Resume", pb.ResumeRequest(id=container.id))


def update(container: Container, resources: bytes) -> None:
    request = pb.UpdateTaskRequest(id=container.id)
    request.resources.value = resources
    container.connection.call("Update", request)


def values(group: str, name: str) -> list[str]:
    """What stands in a control group's files, in every hierarchy."""
    root = Path("/sys/fs/cgroup")
    return [each.read_text().strip() for place in ("*", ".") for each in root.glob(f"{place}{group}/{name}")]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("cgroup", ["", f"/wasm-sandboxer-test-{RUN}/frozen"])
def test_a_paused_container_stands_still_until_it_is_resumed(pod: Pod, cgroup: str) -> None:
    builder = pod.with_wasm("spin").fifos("stdout")
    if cgroup:
        builder.linux(cgroupsPath=cgroup)
    container = builder.build()
    output = Collected(container.bundle / "stdout")
    container.start()
    container.add_exec("too", "/app.wasm").start("too")
    pause(container)
    assert (container.status(), container.status("too")) == ("PAUSED", "PAUSED")
    before = [cpu_ticks(pid) for pid in (container.pid, container.state("too").pid)]
    neighbour = pod.with_wasm("hello").build().start()  # takes a while, in which nothing may move
    assert neighbour.wait() == 0
    assert [cpu_ticks(pid) for pid in (container.pid, container.state("too").pid)] == before
    resume(container)
    assert container.status() == "RUNNING"
    container.kill(signal.SIGKILL)
    assert container.wait() == 137
    container.delete()
    assert output.text() in ("", "up\n")


def test_a_paused_container_can_be_killed(pod: Pod) -> None:
    container = pod.with_wasm("spin").build().start()
    pause(container)
    container.kill(signal.SIGKILL)
    assert container.wait() == 137
    container.delete()


def test_a_paused_container_ends_with_its_sandbox(pod: Pod) -> None:
    container = pod.with_wasm("spin").build().start()
    pause(container)
    pod.stop(timeout=0)
    assert container.wait() == 137


def test_pause_and_resume_are_refused_in_other_states(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build()
    with pytest.raises(FailedPrecondition, match="it is created"):
        pause(container)
    container.start()
    with pytest.raises(FailedPrecondition, match="it is running"):
        resume(container)
    pause(container)
    with pytest.raises(FailedPrecondition, match="it is paused"):
        pause(container)
    with pytest.raises(FailedPrecondition, match="it is paused"):
        container.add_exec("x", "/app.wasm")
    resume(container)
    container.kill(signal.SIGKILL)
    container.wait()
    with pytest.raises(FailedPrecondition, match="it is stopped"):
        pause(container)


def test_limits_of_a_running_container_are_changed(pod: Pod) -> None:
    path = f"/wasm-sandboxer-test-{RUN}/updated"
    resources = {"memory": {"limit": 64 << 20}}
    container = pod.with_wasm("sleep").linux(cgroupsPath=path, resources=resources).build().start()
    update(container, b'{"memory": {"limit": 100663296}, "pids": {"limit": 5}}')
    assert "100663296" in values(path, "memory.*limit_in_bytes") + values(path, "memory.max")
    assert values(path, "pids.max") == ["5"]
    container.kill(signal.SIGKILL)
    container.wait()
    with pytest.raises(FailedPrecondition, match="it is stopped"):
        update(container, b"{}")
    container.delete()


@pytest.mark.parametrize("resources", [b"", b"{", b"[]", b'{"memory": {"limit": "x"}}', b'{"cpu": 3}'])
def test_resources_that_are_none(pod: Pod, resources: bytes) -> None:
    container = pod.with_wasm("sleep").build().start()
    with pytest.raises(InvalidArgument, match=container.id):
        update(container, resources)
    assert container.status() == "RUNNING"


def test_update_of_nobody(pod: Pod) -> None:
    container = pod.with_wasm("sleep").build()
    container.delete()
    for call in (pause, resume, lambda container: update(container, b"{}")):
        with pytest.raises(NotFound):
            call(container)


@pytest.mark.parametrize("mib", [24, 64, 256])
def test_a_guest_that_takes_all_it_can_get_sees_a_failed_grow_and_is_not_killed(pod: Pod, mib: int) -> None:
    resources = {"memory": {"limit": mib << 20, "swap": mib << 20}}
    for _ in range(2):  # interpreted, and compiled by then
        eating = pod.with_wasm("eat").linux(resources=resources).build().start()
        assert eating.wait() == 0, eating.stdout()
        assert "touched it all" in eating.stdout()


def test_a_container_killed_for_memory_is_told_from_one_that_was_killed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("oom") / "s"
    receiver = Receiver(path)
    try:
        with Daemon("--events", str(path)) as daemon:
            pod = Pod(daemon)
            resources = {"memory": {"limit": 32 << 20, "swap": 32 << 20}}
            filling = pod.with_wasm("fill").args("/shm/file").mount("/shm", "tmpfs", "tmpfs")
            hungry = filling.linux(resources=resources).build().start()
            assert hungry.wait() == 137
            killed = pod.with_wasm("sleep").linux(resources=resources).build().start()
            killed.kill(signal.SIGKILL)
            assert killed.wait() == 137
            told = [(topic, event.container_id) for _, topic, event in receiver.take(7)]
            assert [who for topic, who in told if topic == "/tasks/oom"] == [hungry.id]
            assert told.index(("/tasks/oom", hungry.id)) < told.index(("/tasks/exit", hungry.id))
            pod.shutdown()
            pod.close()
    finally:
        receiver.close()


def test_a_kill_while_it_is_being_paused_ends_it(pod: Pod) -> None:
    """With version 1 of control groups it stayed, frozen, until it was resumed."""
    for _ in range(20):
        container = pod.with_wasm("spin").build().start()
        pausing = container.connection.send("Pause", pb.PauseRequest(id=container.id))
        killing = container.connection.send("Kill", pb.KillRequest(id=container.id, signal=signal.SIGKILL))
        container.connection.receive(killing, "Kill")
        with contextlib.suppress(FailedPrecondition):
            container.connection.receive(pausing, "Pause")
        assert container.wait() == 137
        container.delete()
