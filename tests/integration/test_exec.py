"""Exec: a process more in a running container, with streams, state and end of its own."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from sandbox_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Collected, Container, Pod
from ..harness.guests import guest

pytestmark = pytest.mark.engines


@pytest.fixture
def running(pod: Pod) -> Container:
    """A running container that has other modules in its root."""
    builder = pod.with_wasm("sleep").file("/etc/motd", "of the container\n")
    for name in ("exit", "files", "cat", "args"):
        shutil.copy(guest(name), builder.rootfs / f"{name}.wasm")
    return builder.build().start()


def test_an_exec_runs_in_the_containers_file_system_with_its_own_end(running: Container) -> None:
    running.add_exec("one", "/files.wasm", "r /etc/motd")
    assert running.status("one") == "CREATED"
    running.start("one")
    assert running.wait("one") == 0
    assert (running.bundle / "one.out").read_text() == "/etc/motd: of the container\n"
    assert running.status("one") == "STOPPED"
    assert running.status() == "RUNNING"
    running.add_exec("two", "/exit.wasm", "9").start("two")
    assert running.wait("two") == 9
    assert running.delete("two").exit_status == 9
    with pytest.raises(NotFound, match="two"):
        running.state("two")
    running.kill(signal.SIGKILL)
    assert running.wait() == 137


def test_the_same_module_with_other_arguments(running: Container) -> None:
    running.add_exec("again", "/app.wasm", "0").start("again")
    assert running.wait("again") == 0
    assert (running.bundle / "again.out").read_text() == "up\n"


def test_an_exec_has_environment_and_user_of_its_own(running: Container) -> None:
    running.add_exec("env", "/args.wasm", env=["A=b"], user={"uid": 77, "gid": 88}).start("env")
    assert running.wait("env") == 0
    assert (running.bundle / "env.out").read_text() == "arg /args.wasm\nenv A=b\n"


def test_an_execs_input_is_its_own(running: Container) -> None:
    running.add_exec("cat", "/cat.wasm", fifos=True)
    output = Collected(running.bundle / "cat.out")
    running.start("cat")
    with (running.bundle / "cat.in").open("w") as stdin:
        stdin.write("to the exec")
        stdin.flush()
        running.close_stdin("cat")
        assert running.wait("cat") == 0
    assert output.text() == "to the exec"


def test_an_exec_is_signalled_by_itself(running: Container) -> None:
    running.add_exec("slow", "/app.wasm").start("slow")
    pids = running.connection.call("Pids", pb.PidsRequest(id=running.id)).processes
    assert len(pids) == 2
    running.kill(signal.SIGTERM, exec_id="slow")
    assert running.wait("slow") == 143
    assert running.status() == "RUNNING"


def test_execs_end_with_the_init_process(running: Container) -> None:
    running.add_exec("left", "/app.wasm").start("left")
    waiter = running.wait_later("left")
    running.kill(signal.SIGTERM)
    assert running.wait() == 143
    assert waiter.result().exit_status == 137
    running.delete()


def test_kill_with_all_reaches_execs(running: Container) -> None:
    running.add_exec("too", "/app.wasm").start("too")
    waiter = running.wait_later("too")
    running.kill(signal.SIGUSR1, everyone=True)
    assert running.wait() == 128 + signal.SIGUSR1
    assert waiter.result().exit_status in (128 + signal.SIGUSR1, 137)


def test_invalid_execs_are_refused(running: Container) -> None:
    running.add_exec("x", "/exit.wasm")
    with pytest.raises(AlreadyExists, match="x"):
        running.add_exec("x", "/exit.wasm")
    with pytest.raises(InvalidArgument, match="an id is"):
        running.add_exec("../x", "/exit.wasm")
    with pytest.raises(InvalidArgument, match="not JSON"):
        running.connection.call("Exec", pb.ExecProcessRequest(id=running.id, exec_id="y"))
    running.add_exec("z", "/nothing.wasm")
    with pytest.raises(InvalidArgument, match=r"/z: module /nothing\.wasm"):
        running.start("z")
    assert running.status("z") == "CREATED"
    with pytest.raises(FailedPrecondition, match="it is running"):
        running.delete()


def test_no_exec_in_what_does_not_run(pod: Pod, running: Container) -> None:
    created = pod.with_wasm("sleep").build()
    with pytest.raises(FailedPrecondition, match="it is created"):
        created.add_exec("x", "/app.wasm")
    running.add_exec("late", "/exit.wasm")
    running.kill(signal.SIGKILL)
    running.wait()
    with pytest.raises(FailedPrecondition, match="it is stopped"):
        running.add_exec("x", "/app.wasm")
    with pytest.raises(FailedPrecondition, match="it is stopped"):
        running.start("late")
    running.delete()


def test_limits_hold_for_execs(pod: Pod) -> None:
    builder = pod.with_wasm("sleep").linux(resources={"memory": {"limit": 64 << 20}})
    shutil.copy(guest("memory"), builder.rootfs / "memory.wasm")
    container = builder.build().start()
    container.add_exec("big", "/memory.wasm", "80").start("big")
    assert container.wait("big") == 1
    assert (container.bundle / "big.out").read_text() == "refused\n"


def test_a_spec_without_a_type_url_or_with_any_is_read(running: Container) -> None:
    for number, url in enumerate(["", "types.containerd.io/opencontainers/runtime-spec/1/Process", "what.ever/x"]):
        request = pb.ExecProcessRequest(id=running.id, exec_id=f"u{number}")
        request.spec.type_url = url
        request.spec.value = json.dumps({"args": ["/exit.wasm", "4"], "cwd": "/"}).encode()
        running.connection.call("Exec", request)
        running.start(f"u{number}")
        assert running.wait(f"u{number}") == 4


def test_execs_that_succeed_leave_no_line_in_the_log_and_one_that_fails_leaves_one(pod: Pod) -> None:
    builder = pod.with_wasm("sleep")
    shutil.copy(guest("exit"), builder.rootfs / "exit.wasm")
    container = builder.build().start()
    for name, status in (("good", "0"), ("bad", "3")):
        container.add_exec(name, "/exit.wasm", status).start(name)
        assert container.wait(name) == int(status)
        container.delete(name)
    lines = [line for line in pod.daemon.log_text().splitlines() if f"{container.id}/" in line and " INFO " in line]
    assert [line.split(": ", 1)[1].split(" pid=")[0] for line in lines] == [f"ended {container.id}/bad"]
