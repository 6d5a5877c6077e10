"""``stop``, ``kill``, ``pause``, ``resume``, ``rm``, ``exec`` and ``logs``, on what run and what engines made."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness.cli import SECONDS, Cli
from ...harness.container import Pod
from ...harness.guests import guest


@pytest.fixture
def running(cli: Cli) -> Iterator[str]:
    """A container that run -d made, and that says up."""
    name = cli.out("run", "-d", guest("sleep"), "1000").strip()
    yield name
    cli.run("rm", "-f", name)


def state(cli: Cli, name: str) -> tuple[str, int | None]:
    row = json.loads(cli.out("inspect", name))
    return row["state"], row["exit_status"]


def test_stop_sends_sigterm_first(cli: Cli, running: str) -> None:
    assert cli.out("stop", running) == f"{running}\n"
    assert state(cli, running) == ("stopped", 128 + signal.SIGTERM)
    assert cli.out("stop", running) == f"{running}\n"  # again: it is what was wanted


def test_stop_without_time_kills(cli: Cli, running: str) -> None:
    cli.out("stop", "-t", "0", running)
    assert state(cli, running) == ("stopped", 128 + signal.SIGKILL)


def test_kill_sends_the_signal_named(cli: Cli, running: str) -> None:
    cli.out("kill", "-s", "sigusr1", running)
    deadline = time.monotonic() + SECONDS
    while state(cli, running)[0] != "stopped":
        assert time.monotonic() < deadline
    assert state(cli, running) == ("stopped", 128 + signal.SIGUSR1)
    again = cli.run("kill", running)
    assert (again.returncode, again.stderr) == (1, f"Error: {running}: it has ended\n")
    assert "there is no signal 'NOPE'" in cli.run("kill", "-s", "NOPE", running).stderr


def test_pause_and_resume(cli: Cli, running: str) -> None:
    cli.out("pause", running)
    assert state(cli, running)[0] == "paused"
    assert cli.run("pause", running).returncode == 1
    cli.out("resume", running)
    assert state(cli, running)[0] == "running"


def test_rm_wants_it_stopped_or_force(cli: Cli, running: str) -> None:
    refused = cli.run("rm", running)
    assert refused.returncode == 1
    assert "it is running: stop it first, or use --force" in refused.stderr
    cli.out("rm", "-f", running)
    assert "there is none" in cli.run("inspect", running).stderr
    assert running not in {row["id"] for row in cli.rows("pods")}


def test_one_failure_does_not_keep_others(cli: Cli, running: str) -> None:
    done = cli.run("stop", "nobody", running)
    assert (done.returncode, done.stdout) == (1, f"{running}\n")
    assert "container 'nobody'" in done.stderr


def test_containers_of_engines_are_not_removed_without_force(cli: Cli, pod: Pod) -> None:
    builder = pod.with_wasm("sleep").args("1000")
    builder.config["annotations"]["io.kubernetes.cri.container-type"] = "container"
    container = builder.build().start()
    refused = cli.run("rm", container.id)
    assert refused.returncode == 1
    assert "it was made by containerd, which is to remove it" in refused.stderr
    assert container.status() == "RUNNING"
    cli.out("rm", "--force", container.id)
    assert container.id not in {row["id"] for row in cli.rows("ps", "-a")}
    assert pod.id in {row["id"] for row in cli.rows("pods")}  # the pod is its engine's still


def test_a_container_of_another_namespace_is_reached(cli: Cli, daemon) -> None:
    other = Pod(daemon, namespace="k8s.io")
    container = other.with_wasm("sleep").args("1000").build().start()
    cli.out("stop", "-t", "0", f"k8s.io/{container.id}")
    assert container.wait() == 137
    other.shutdown()
    other.close()


def test_exec_runs_beside_with_its_own_streams(cli: Cli, tmp_path: Path) -> None:
    for name in ("sleep", "cat", "exit"):
        (tmp_path / f"{name}.wasm").write_bytes(guest(name).read_bytes())
    cli.out("run", "-d", "--name", "execs", tmp_path, "/sleep.wasm", "1000")
    try:
        assert cli.out("exec", "-i", "execs", "/cat.wasm", input="through\n") == "through\n"
        done = cli.run("exec", "execs", "/exit.wasm", "5")
        assert (done.returncode, done.stderr) == (5, "ending with 5\n")
        with cli.in_terminal("exec", "-it", "execs", "/cat.wasm") as terminal:
            terminal.type("typed\n")
            terminal.expect("typed\r\ntyped\r\n")
            terminal.type("\x04")
            assert terminal.wait() == 0
        assert [each["exec_id"] for each in json.loads(cli.out("inspect", "execs"))["processes"]] == [""]
        absent = cli.run("exec", "execs", "/nothing.wasm")
        assert (absent.returncode, len(absent.stderr.splitlines())) == (126, 1)
        assert absent.stderr.startswith("Error: execs: module /nothing.wasm: No such file")
    finally:
        cli.out("rm", "-f", "execs")


def test_logs_shows_what_run_wrote(cli: Cli, running: str) -> None:
    with cli.start("logs", "-f", running) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "up\n"
        assert cli.out("logs", running) == "up\n"
        cli.out("stop", running)
        assert following.stdout.read() == ""  # it ends with the container
        assert following.wait(SECONDS) == 0


def test_logs_tails_and_is_whole(cli: Cli) -> None:
    name = cli.out("run", "-d", guest("flood"), "5000").strip()
    assert len(cli.out("logs", "-f", name).splitlines()) == 5000
    last = cli.out("logs", "--tail", "2", name).splitlines()
    assert [line.split(" ")[1] for line in last] == ["4999", "5000"]
    assert cli.out("logs", "-n", "0", name) == ""
    cli.out("rm", name)


def test_logs_says_where_an_engine_keeps_them(cli: Cli, pod: Pod) -> None:
    builder = pod.with_wasm("sleep").streams(stdout="", stderr="")
    builder.config["annotations"]["io.kubernetes.cri.container-type"] = "container"
    container = builder.build()
    done = cli.run("logs", container.id)
    assert done.returncode == 1
    assert f"containerd keeps them: crictl logs {container.id}" in done.stderr
    container.delete()


def test_logs_reads_json_files_that_were_rotated(cli: Cli, pod: Pod, tmp_path: Path) -> None:
    """iSulad's json-file, as the daemon is asked for it by annotations."""
    builder = pod.with_wasm("sleep").args("1000").streams(stdout="", stderr="")
    log = tmp_path / "console.log"
    builder.config["annotations"] |= {"cri.sandbox.id": pod.id, "log.console.file": str(log)}
    container = builder.build()

    def line(text: str, stream: str) -> str:
        return json.dumps({"log": text, "stream": stream, "time": "2026-11-21T13:00:00.000000000Z"}) + "\n"

    log.with_name("console.log.2").write_text(line("first\n", "stdout"))
    log.with_name("console.log.1").write_text(line("second\n", "stderr") + '{"cut')
    log.write_text(line("third\n", "stdout"))
    done = cli.run("logs", container.id)
    assert (done.returncode, done.stdout, done.stderr) == (0, "first\nthird\n", "second\n")
    assert cli.out("logs", "-n", "1", container.id) == "third\n"
    container.delete()
