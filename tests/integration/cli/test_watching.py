"""``stats``, ``events`` and ``top``: what containers use and do, once or as it goes."""

from __future__ import annotations

import json
import re
import signal
import time

from ...harness.cli import SECONDS, Cli
from ...harness.container import Pod


def test_stats_measures_processors_and_memory(cli: Cli, pod: Pod) -> None:
    busy = pod.with_wasm("spin").build().start()
    idle = pod.with_wasm("sleep").args("1000").build().start()
    rows = {row["id"]: row for row in cli.rows("stats", busy.id, idle.id)}
    assert rows[busy.id]["cpu"] > 0.1
    assert rows[idle.id]["cpu"] < 0.1
    assert rows[idle.id]["memory"] > 10_000
    assert rows[idle.id]["processes"] == 1
    head, *lines = cli.out("stats").splitlines()
    assert head.split()[:2] == ["CONTAINER", "CPU"]
    line = next(line for line in lines if line.startswith(f"{busy.id} "))
    assert re.search(r"\d+\.\d%.* (KiB|MiB)", line)
    busy.kill(signal.SIGKILL)


def test_stats_shows_limits(cli: Cli, pod: Pod) -> None:
    resources = {"memory": {"limit": 64 << 20}}
    container = pod.with_wasm("sleep").args("1000").linux(resources=resources).build().start()
    assert "/ 64.0 MiB" in cli.out("stats", container.id)


def test_events_shows_the_past_and_follows(cli: Cli, pod: Pod) -> None:
    before = pod.with_wasm("exit").args("3").build().start()
    before.wait()
    past = [row for row in cli.rows("events") if row["container_id"] == before.id]
    assert [row["topic"] for row in past][:2] == ["/tasks/create", "/tasks/start"]
    with cli.start("events", "-f") as following:
        assert following.stdout is not None
        lines = iter(following.stdout.readline, "")
        assert next(line for line in lines if f"start default/{before.id} " in line)
        now = pod.with_wasm("exit").args("5").build().start()
        now.wait()
        exited = next(line for line in lines if f" exit default/{now.id} " in line)
        assert f"pid={now.pid} exit_status=5" in exited
        following.send_signal(signal.SIGINT)
        assert following.wait(SECONDS) == 0


def test_events_as_json_are_objects(cli: Cli, pod: Pod) -> None:
    container = pod.with_wasm("exit").args("4").build().start()
    container.wait()
    rows = [row for row in cli.rows("events") if row["container_id"] == container.id]
    assert rows[-1]["topic"] == "/tasks/exit"
    assert rows[-1]["exit_status"] == 4
    assert abs(rows[-1]["at"] / 1e9 - time.time()) < 60


def test_top_is_live_sorted_and_ends_with_q(cli: Cli, pod: Pod) -> None:
    busy = pod.with_wasm("spin").build().start()
    pod.with_wasm("sleep").args("1000").build().start()
    with cli.in_terminal("top", "--interval", "0.2") as terminal:
        terminal.expect("RESTARTS")
        terminal.expect(busy.id)
        terminal.expect("by cpu")
        terminal.type("m")
        terminal.expect("by memory")
        late = pod.with_wasm("sleep").args("1001").build().start()
        terminal.expect(late.id)  # it came while we watch
        terminal.type("q")
        assert terminal.wait() == 0
        assert terminal.text.endswith("\x1b[?25h") or "\x1b[?1049l" in terminal.text  # the screen is as it was
    busy.kill(signal.SIGKILL)


def test_top_puts_the_busy_first(cli: Cli, pod: Pod) -> None:
    pod.with_wasm("sleep").args("1000").build().start()
    busy = pod.with_wasm("spin").build().start()
    head, first, *_ = cli.out("top").splitlines()
    assert head.split() == [
        "CONTAINER",
        "CPU",
        "MEMORY",
        "AGE",
        "RESTARTS",
        "STATE",
        "ENGINE",
        "TIER",
        "BY",
        "POD",
        "COMMAND",
    ]
    assert first.split()[0] == busy.id
    assert "wasmedge" in first
    busy.kill(signal.SIGKILL)


def test_top_counts_restarts(cli: Cli, pod: Pod) -> None:
    builder = pod.with_wasm("sleep").args("1000")
    builder.config["annotations"]["io.kubernetes.container.restartCount"] = "7"
    container = builder.build().start()
    rows = {row["id"]: row for row in map(json.loads, cli.out("ps", "--format", "json").splitlines())}
    assert rows[container.id]["restarts"] == 7
