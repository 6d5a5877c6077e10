"""``ps``, ``pods``, ``inspect``: pods and containers of every maker."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from supervisor.commands.client import UnixConnection

from ...harness.cli import Cli
from ...harness.container import Pod
from ...harness.daemon import Daemon
from ...harness.guests import guest


def by_id(cli: Cli, *words: str) -> dict[str, dict[str, object]]:
    return {row["id"]: row for row in cli.rows(*words)}


def test_ps_shows_what_runs_and_with_all_what_ended(cli: Cli, pod: Pod) -> None:
    running = pod.with_wasm("sleep").args("1000").build().start()
    ended = pod.with_wasm("exit").args("7").build().start()
    assert ended.wait() == 7
    rows = by_id(cli, "ps")
    assert rows[running.id]["state"] == "running"
    assert rows[running.id]["pid"] == running.pid
    assert rows[running.id]["pod"] == pod.id
    assert rows[running.id]["command"] == "/app.wasm 1000"
    assert rows[running.id]["tier"]
    assert abs(rows[running.id]["started_at"] / 1e9 - time.time()) < 30
    assert ended.id not in rows
    rows = by_id(cli, "ps", "-a")
    assert (rows[ended.id]["state"], rows[ended.id]["exit_status"]) == ("stopped", 7)


def test_a_new_daemon_knows_how_code_runs() -> None:
    with Daemon() as daemon:
        pod = Pod(daemon)
        container = pod.with_wasm("sleep").args("1000").build().start()
        before = by_id(Cli(daemon), "ps")[container.id]
        assert before["tier"] in ("interpreted", "O0", "O2")
        daemon.kill()
        daemon.start()
        after = by_id(Cli(daemon), "ps")[container.id]
        assert {key: after[key] for key in ("tier", "pid", "state")} == {
            key: before[key] for key in ("tier", "pid", "state")
        }
        assert abs(after["started_at"] - before["started_at"]) < 1e9
        pod.shutdown()


def test_ps_is_aligned_and_whole_in_a_pipe(cli: Cli, pod: Pod) -> None:
    container = pod.with_wasm("sleep").args("1000").build().start()
    head, *lines = cli.out("ps").splitlines()
    line = next(line for line in lines if line.startswith(container.id + " "))
    assert line.index("running") == head.index("STATE")
    assert line.endswith("/app.wasm 1000")
    assert "\x1b" not in line
    assert container.id in cli.out("ps", "-q").split()


def test_ps_is_drawn_in_a_terminal(cli: Cli, pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    with cli.in_terminal("ps") as terminal:
        assert terminal.wait() == 0
        assert container.id in terminal.text
        assert "\x1b[32mrunning" in terminal.text  # green


@pytest.mark.parametrize("width", [200, 80, 40, 12])
def test_a_narrow_terminal_shows_fewer_columns_and_whole_ids(cli: Cli, width: int) -> None:
    name = "a-name-that-is-needed-whole"
    cli.out("run", "-d", "--name", name, guest("sleep"), "1000")
    try:
        with cli.in_terminal("ps", width=width) as terminal:
            assert terminal.wait() == 0
            head, *lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text).splitlines()
        (line,) = (each for each in lines if each.startswith(f"{name} "))
        assert re.match(rf"{name}  running \d+s", line)
        assert ("PID" in head) == (width >= 80)
        assert ("BY" in head) == (width == 200)
        assert max(len(each.rstrip()) for each in lines) <= max(width, len(name) + len("  running 1000s"))
    finally:
        cli.out("rm", "-f", name)


@pytest.mark.parametrize("words", [("ps",), ("ps", "--format", "json"), ("inspect", "{id}"), ("logs", "{id}")])
def test_an_output_that_cannot_be_written_is_an_error_of_one_line(cli: Cli, words: tuple[str, ...]) -> None:
    name = cli.out("run", "-d", guest("hello")).strip()
    wait_for_log(cli, name)
    try:
        named = [word.format(id=name) for word in words]
        named += ["-a"] if "ps" in words else []
        with open("/dev/full", "w") as full:
            done = cli.run(*named, stdout=full)
        assert (done.returncode, done.stderr) == (1, "Error: standard output: No space left on device\n")
        read, write = os.pipe()
        os.close(read)
        done = cli.run(*named, stdout=write)
        os.close(write)
        assert done.stderr == ""
    finally:
        cli.out("rm", "-f", name)


def wait_for_log(cli: Cli, name: str) -> None:
    assert cli.out("logs", "-f", name) == "hello from WASI\n"


def test_closed_streams_are_not_taken_for_files_of_ours(cli: Cli) -> None:
    for closed in ((1,), (0, 1), (0, 1, 2)):
        done = cli.run("ps", preexec_fn=lambda fds=closed: [os.close(fd) for fd in fds])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        done = cli.run("run", "--rm", guest("hello"), preexec_fn=lambda fds=closed: [os.close(fd) for fd in fds])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_containers_are_called_is_not_for_the_terminal_to_obey(cli: Cli, pod: Pod) -> None:
    builder = pod.with_wasm("sleep").args("1000", "\x1b]0;title\x07", "\x9b2J")
    builder.config["annotations"]["io.kubernetes.cri.container-name"] = "a\nb\x1b[2J"
    container = builder.build().start()
    for command in ("ps", "top", "stats"):
        assert not {"\x1b", "\x07", "\x9b"}.intersection(cli.out(command))
    line = next(line for line in cli.out("ps").splitlines() if line.startswith(container.id + " "))
    assert r"a\nb\x1b[2J" in line
    with cli.in_terminal("ps") as terminal:
        assert terminal.wait() == 0
        assert "\x1b[2J" not in terminal.text
        assert "\x1b]0;" not in terminal.text


def test_engines_are_told_by_what_they_write(cli: Cli, pod: Pod) -> None:
    containerd, isulad = pod.with_wasm("sleep"), pod.with_wasm("sleep")
    containerd.config["annotations"] |= {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "web",
        "io.kubernetes.cri.image-name": "docker.io/library/web:1",
    }
    isulad.config["annotations"]["cri.sandbox.id"] = pod.id
    made, other = containerd.build(), isulad.build()
    rows = by_id(cli, "ps", "-a")
    named = [rows[made.id][key] for key in ("maker", "name", "image")]
    assert named == ["containerd", "web", "docker.io/library/web:1"]
    assert rows[other.id]["maker"] == "isulad"


def test_pods_counts_containers(cli: Cli, pod: Pod) -> None:
    pod.with_wasm("sleep").build().start()
    pod.with_wasm("sleep").build()
    row = by_id(cli, "pods")[pod.id]
    assert (row["state"], row["running"], row["containers"]) == ("ready", 1, 2)
    assert any(line.startswith(pod.id) and "1/2" in line for line in cli.out("pods").splitlines())


def test_inspect_shows_spec_processes_and_streams(cli: Cli, pod: Pod) -> None:
    container = pod.with_wasm("sleep").args("1000").build().start().add_exec("one", "/app.wasm", "1000").start("one")
    shown = json.loads(cli.out("inspect", container.id))
    assert shown["spec"]["process"]["args"] == ["/app.wasm", "1000"]
    assert [each["exec_id"] for each in shown["processes"]] == ["", "one"]
    assert shown["streams"]["stdout"] == f"file://{container.bundle}/stdout"
    assert shown["sandbox"]["id"] == pod.id
    container.kill(signal.SIGKILL, everyone=True)


def test_a_name_may_be_short_but_not_of_two(cli: Cli, pod: Pod) -> None:
    one, two = pod.with_wasm("sleep").build(), pod.with_wasm("sleep").build()
    assert json.loads(cli.out("inspect", f"default/{one.id}"))["id"] == one.id
    common = "".join(a for a, b in zip(one.id, two.id, strict=False) if a == b)[:1]
    done = cli.run("inspect", common)
    assert done.returncode == 1
    assert "write more of it" in done.stderr


def test_missing_containers_are_an_error_of_one_line(cli: Cli, tmp_path: Path) -> None:
    done = cli.run("inspect", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: container 'nobody': there is none (wasm-sandboxer ps -a lists them all)\n"
    nowhere = Cli(WASM_SANDBOXER_DIR=str(tmp_path)).run("ps")
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith(f"Error: nobody serves on {tmp_path}/info.sock: start the daemon")


def test_the_socket_is_the_owners_and_read_only(daemon: Daemon) -> None:
    path = daemon.dir / "info.sock"
    assert path.stat().st_mode & 0o777 == 0o600

    def ask(method: str, target: str) -> int:
        connection = UnixConnection(path)
        connection.request(method, target)
        return connection.getresponse().status

    assert [ask("GET", "/node"), ask("POST", "/node"), ask("GET", "/nothing")] == [200, 405, 404]
