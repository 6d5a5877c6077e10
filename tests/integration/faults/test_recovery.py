"""Any part may die at any moment: every instance and every exit status comes through."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest

from sandbox_api.errors import NotFound, Unavailable
from sandbox_api.proto import task_pb2 as pb

from ...harness.compiled import until
from ...harness.container import Collected, Pod
from ...harness.daemon import ROOT, Daemon
from ...harness.guests import guest
from ...harness.helpers import find, forkserver, relay, started_in_time

pytestmark = pytest.mark.engines


def die_and_return(daemon: Daemon, how: str = "kill") -> None:
    getattr(daemon, how)()
    daemon.start()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_instances_do_not_notice_that_the_supervisor_goes(daemon: Daemon, pod: Pod, how: str) -> None:
    builder = pod.with_wasm("cat").fifos("stdin", "stdout").mount("/scratch", kind="tmpfs")
    shutil.copy(guest("sleep"), builder.rootfs / "sleep.wasm")
    container = builder.linux(resources={"pids": {"limit": 50}}).build()
    output = Collected(container.bundle / "stdout")
    container.start().add_exec("e", "/sleep.wasm").start("e")
    created = pod.with_wasm("exit").args("4").build()
    die_and_return(daemon, how)
    container.reconnect()
    assert (container.status(), container.status("e"), container.state().pid) == ("RUNNING", "RUNNING", container.pid)
    assert created.reconnect().status() == "CREATED"
    assert pod.api.status(pod.id).state == "SANDBOX_READY"
    assert len(daemon.mounts()) == 1
    waiter = container.wait_later()
    container.kill(signal.SIGTERM, exec_id="e")
    assert container.wait("e") == 143
    (container.bundle / "stdin").write_text("still there")
    assert waiter.result().exit_status == 0
    assert output.text() == "still there"
    assert created.start().wait() == 4
    for each in (container, created):
        each.delete()
    assert daemon.mounts() == []
    pod.shutdown()


def test_exits_while_nobody_was_there_are_told_with_status_and_time(daemon: Daemon, pod: Pod) -> None:
    containers = [pod.with_wasm("exit").args(str(n)).fifos("stdin").build() for n in (0, 3, 77)]
    slow = pod.with_wasm("sleep").build().start()
    daemon.process.send_signal(signal.SIGSTOP)  # it sees nothing of what happens from here on
    worker = psutil.Process(slow.pid)
    worker.kill()
    psutil.wait_procs([worker], timeout=5)
    gone = time.time_ns()
    die_and_return(daemon)
    state = slow.reconnect().state()
    assert (pb.Status.Name(state.status), state.exit_status) == ("STOPPED", 137)
    assert state.exited_at.ToNanoseconds() <= gone
    for number, container in zip((0, 3, 77), containers, strict=True):
        assert container.reconnect().start().wait() == number


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_client_that_waits_gets_its_answer_on_the_same_connection(daemon: Daemon, pod: Pod, how: str) -> None:
    running, ended = pod.with_wasm("sleep").build().start(), pod.with_wasm("sleep").build().start()
    waiters = [each.wait_later().arrived() for each in (running, ended, ended)]
    sandbox = pod.api.wait(pod.id)
    for _ in range(2):
        die_and_return(daemon, how)
    os.kill(ended.pid, signal.SIGTERM)
    assert [waiter.result().exit_status for waiter in waiters[1:]] == [143, 143]
    getattr(daemon, how)()
    os.kill(running.pid, signal.SIGUSR2)
    daemon.start()
    assert waiters[0].result().exit_status == 128 + signal.SIGUSR2
    sandbox.cancel()
    again = pod.api.wait(pod.id)
    pod.stop()
    assert again().exit_status == 0


def test_a_call_that_was_under_way_is_answered_with_unavailable(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").build()
    server = forkserver(daemon)
    server.suspend()  # the start hangs
    container.connection.send("Wait", pb.WaitRequest(id=container.id))
    stream = container.connection.send("Start", pb.StartRequest(id=container.id))
    container.connect().call("State", pb.StateRequest(id=container.id))
    daemon.kill()
    server.resume()
    daemon.start()
    with pytest.raises(Unavailable, match="Start"):
        container.connection.receive(stream, "Start")
    assert container.status() == "CREATED"


def test_so_it_is_where_the_relay_had_died_before(daemon: Daemon, pod: Pod) -> None:
    """A new one is told of everything that is under way, Waits whole and other calls by name."""
    runs, created = pod.with_wasm("sleep").build().start(), pod.with_wasm("sleep").build()
    waiter = runs.wait_later().arrived()
    server = forkserver(daemon)
    server.suspend()
    waits = created.connection.send("Wait", pb.WaitRequest(id=created.id))
    stream = created.connection.send("Start", pb.StartRequest(id=created.id))
    created.connect().call("State", pb.StateRequest(id=created.id))
    relay(daemon).kill()
    until("a new relay", lambda: "a relay is up" in daemon.log_text().partition("the relay died")[2])
    later = runs.wait_later().arrived()
    daemon.kill()
    server.resume()
    daemon.start()
    with pytest.raises(Unavailable, match="Start"):
        created.connection.receive(stream, "Start")
    assert created.start().status() == "RUNNING"
    for each in (runs.reconnect(), created):
        each.kill(signal.SIGTERM)
    assert [each.result().exit_status for each in (waiter, later)] == [143, 143]
    assert created.connection.receive(waits, "Wait").exit_status == 143


def test_a_paused_container_stays_paused(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    container.connection.call("Pause", pb.PauseRequest(id=container.id))
    die_and_return(daemon)
    assert container.reconnect().status() == "PAUSED"
    container.connection.call("Resume", pb.ResumeRequest(id=container.id))
    container.kill(signal.SIGKILL)
    assert container.wait() == 137


def test_a_terminal_goes_on(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("cat").terminal().fifos("stdin", "stdout").streams(stderr="").build()
    output = Collected(container.bundle / "stdout")
    container.start()
    with (container.bundle / "stdin").open("w") as stdin:
        die_and_return(daemon)
        stdin.write("typed\n")
        stdin.flush()
        container.reconnect()
        container.connection.call("ResizePty", pb.ResizePtyRequest(id=container.id, width=80, height=25))
        container.close_stdin()
        assert container.wait() == 0
    assert output.text() == "typed\r\ntyped\r\n"


def test_the_forkserver_dies_and_instances_go_on(daemon: Daemon, pod: Pod) -> None:
    running = [pod.with_wasm("sleep").build().start() for _ in range(3)]
    first = forkserver(daemon)
    first.kill()
    psutil.wait_procs([first], timeout=5)
    after = pod.with_wasm("exit").args("5").build()
    assert started_in_time(after).wait() == 5
    assert [each.status() for each in running] == ["RUNNING"] * 3
    assert forkserver(daemon).pid != first.pid
    running[0].kill(signal.SIGTERM)
    os.kill(running[1].pid, signal.SIGKILL)
    assert [running[0].wait(), running[1].wait()] == [143, 137]
    pod.stop()
    assert running[2].wait() == 137


def test_the_forkserver_dies_under_a_supervisor_that_did_not_start_it(daemon: Daemon, pod: Pod) -> None:
    running = [pod.with_wasm("sleep").build().start() for _ in range(2)]
    die_and_return(daemon)
    first = forkserver(daemon)
    first.kill()
    psutil.wait_procs([first], timeout=5)
    assert started_in_time(pod.with_wasm("hello").build()).wait() == 0
    assert [each.reconnect().status() for each in running] == ["RUNNING"] * 2
    running[0].kill(signal.SIGTERM)
    status = running[0].wait()
    told = "reporting 255" not in daemon.log_text()
    assert status == (143 if told else 255)
    pod.stop()


def test_a_relay_that_is_being_started_is_no_worker_of_a_forkserver_that_dies(daemon: Daemon, pod: Pod) -> None:
    begun = _relay_being_started(daemon)
    up = daemon.log_text().count("a relay is up")
    forkserver(daemon).kill()
    until("a new forkserver", lambda: "a forkserver is up" in daemon.log_text())
    begun.resume()
    until("a new relay", lambda: daemon.log_text().count("a relay is up") > up)
    assert relay(daemon).pid == begun.pid
    assert f"killing pid {begun.pid}," not in daemon.log_text()


def _relay_being_started(daemon: Daemon) -> psutil.Process:
    """A new relay, stopped before it can say that it is ready."""
    for _ in range(50):
        up, first = daemon.log_text().count("a relay is up"), relay(daemon)
        first.kill()
        while (begun := find(daemon, "relay")) in (None, first):
            pass
        assert begun is not None
        begun.suspend()
        if daemon.log_text().count("a relay is up") == up:
            return begun
        begun.resume()
    raise AssertionError("relays are started too fast")


def test_both_die_and_what_runs_is_adopted(daemon: Daemon, pod: Pod) -> None:
    runs, ended = (pod.with_wasm("sleep").build().start() for _ in range(2))
    daemon.process.send_signal(signal.SIGSTOP)
    both = [forkserver(daemon), psutil.Process(ended.pid)]
    both[0].kill()
    daemon.kill()
    both[1].kill()
    psutil.wait_procs(both, timeout=5)
    daemon.start()
    assert runs.reconnect().status() == "RUNNING"
    assert ended.reconnect().wait() == 255
    assert "ended unwatched: exit status unknown" in daemon.log_text()
    runs.kill(signal.SIGKILL)
    assert runs.wait() in (137, 255)
    pod.shutdown()
    assert daemon.workers() == []


def test_a_creation_that_was_not_finished_is_undone(daemon: Daemon, pod: Pod) -> None:
    builder = pod.with_wasm("hello").mount("/scratch", kind="tmpfs").linux(resources={"pids": {"limit": 9}})
    container = builder.build()
    daemon.kill()
    with sqlite3.connect(daemon.dir / "state.db") as db:
        db.execute("UPDATE containers SET made = 0")
    daemon.start()
    with pytest.raises(NotFound):
        container.reconnect().state()
    assert daemon.mounts() == []
    assert builder.build().start().wait() == 0
    pod.shutdown()


def test_drain_ends_every_instance_and_removes_what_was_never_started(daemon: Daemon, pod: Pod) -> None:
    other = Pod(daemon, namespace="other")
    other.api.create("never-started")
    running = [each.with_wasm("sleep").build().start() for each in (pod, other)]
    command = [sys.executable, "-m", "supervisor", "--listen", str(daemon.listen), "--dir", str(daemon.dir), "drain"]
    drained = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (drained.returncode, drained.stderr) == (0, "")
    assert drained.stdout.splitlines()[-1] == "3 sandboxes stopped"
    with pytest.raises(NotFound):
        other.api.status("never-started")
    assert [each.wait() for each in running] == [143, 143]
    everybody = daemon.helpers()
    daemon.stop()
    _, alive = psutil.wait_procs(everybody, timeout=10)
    assert alive == []
    other.close()
    nobody = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert nobody.returncode == 0
    assert "0 sandboxes" in nobody.stdout


def test_a_start_that_the_supervisor_did_not_live_to_hear_of_is_undone(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("hello").build()
    server = forkserver(daemon)
    server.suspend()  # the request waits in its socket
    container.connection.send("Start", pb.StartRequest(id=container.id))
    container.connect().call("State", pb.StateRequest(id=container.id))
    daemon.kill()
    server.resume()
    daemon.start()
    assert container.reconnect().status() == "CREATED"
    assert container.start().wait() == 0
    assert container.stdout() == "hello from WASI\n"  # once
