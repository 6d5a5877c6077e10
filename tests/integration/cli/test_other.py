"""``cache``, ``completion``, ``man``, help, and the daemon's log as JSON."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from supervisor.cli import SECTIONS, main

from ...harness.cli import SECONDS, Cli
from ...harness.container import Pod
from ...harness.daemon import Daemon
from ...harness.guests import guest

COMMANDS = [name for commands in SECTIONS.values() for name in commands]


def compiled(cli: Cli, pod: Pod) -> list[dict[str, object]]:
    """The cache's rows, once the guest "hello" is in it."""
    pod.with_wasm("hello").build().start().wait()
    deadline = time.monotonic() + SECONDS
    while not (rows := [row for row in cli.rows("cache", "ls") if row["level"] == "O2"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return rows


@pytest.fixture
def own() -> Iterator[Daemon]:
    with Daemon("--aot", "auto") as daemon:
        yield daemon


def test_cache_lists_and_prunes(own: Daemon) -> None:
    cli, pod = Cli(own), Pod(own)
    row = compiled(cli, pod)[0]
    assert row["engine"].startswith("wasmedge 0.")
    assert Path(row["path"]).stat().st_size == row["bytes"]
    assert row["digest"][:12] in cli.out("cache", "ls")
    options = ("--cache-dir", own.cache, "--engine", "wasmtime")
    assert "compiled for Wasmtime" in Cli().out(*options, "warm", guest("hello"))  # options before the subcommand count
    of_wasmtime = next(row for row in cli.rows("cache", "ls") if row["engine"].startswith("wasmtime "))
    other = Path(row["path"]).parent.with_name("wasmedge-0.1.2-0123456789abcdef")
    other.mkdir()
    stale = other / Path(row["path"]).name
    stale.write_bytes(b"machine code of another time")
    assert cli.out("cache", "prune", "--dry-run") == "1 would be removed, 28 B\n"
    assert stale.exists()
    assert cli.out("cache", "prune") == "1 removed, 28 B\n"
    assert not stale.exists()
    assert Path(row["path"]).exists()
    assert Path(of_wasmtime["path"]).exists()
    assert cli.out("cache", "prune", "--unused-for", "1h").startswith("0 removed")
    assert "write it like 12h or 7d" in cli.run("cache", "prune", "--unused-for", "long").stderr
    cli.out("cache", "prune", "--all")
    assert cli.rows("cache", "ls") == []
    assert compiled(cli, pod)  # what a running daemon misses, it makes again


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(cli: Cli, shell: str) -> None:
    script = cli.out("completion", shell)
    assert "_WASM_SANDBOXER_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_completion_knows_commands_and_containers(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").args("1000").build().start()

    def complete(words: str) -> list[str]:
        environment = {"_WASM_SANDBOXER_COMPLETE": "bash_complete", "COMP_WORDS": words}
        environment |= {"COMP_CWORD": str(len(words.split(" ")) - 1)}
        environment |= {"WASM_SANDBOXER_DIR": str(daemon.dir), "WASM_SANDBOXER_LISTEN": str(daemon.listen)}
        code = "from supervisor.cli import main; main(prog_name='wasm-sandboxer')"
        cli = Cli(**environment)
        cli._command = [sys.executable, "-c", code]
        return [line.partition(",")[2] for line in cli.run().stdout.splitlines()]

    assert {"pause", "pack", "pods", "ps"} <= set(complete("wasm-sandboxer p"))
    assert container.id in complete("wasm-sandboxer stop ")
    assert complete(f"wasm-sandboxer logs {container.id}") == [container.id]
    assert "--tail" in complete("wasm-sandboxer logs --")


def test_the_manual_page_has_every_command_and_is_sound(cli: Cli) -> None:
    page = cli.out("man")
    for name in COMMANDS:
        if name != "man":
            assert f"\n.SS {name}" in page, name
    assert re.search(r"^\.SS run \[OPTIONS\]", page, re.MULTILINE)
    assert page.startswith(".TH WASM-SANDBOXER 8 ")
    requests = re.findall(r"^[.'](\S*)", page, re.MULTILINE)
    assert set(requests) <= {"TH", "SH", "SS", "TP", "PP", "B", "I", "BR", "nf", "fi"}  # man(7)
    assert [each for each in requests if each in ("nf", "fi")] == ["nf", "fi"] * requests.count("nf")
    assert set(re.findall(r"\\(.)", page)) <= {"-", "e", "&"}
    if shutil.which("man"):  # not everywhere: what it would say is checked above
        command = ["man", "--warnings", "-l", "-"]
        done = subprocess.run(command, input=page, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert "run [OPTIONS]" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_no_long_line(name: str) -> None:
    context = click.Context(main, info_name="wasm-sandboxer")
    command = main.get_command(context, name)
    assert command is not None
    shown = command.get_help(click.Context(command, info_name=name, parent=context))
    assert "Example" in shown, shown
    assert max(map(len, shown.splitlines())) <= 100


def test_help_loads_no_command() -> None:
    """So it is fast. Counted in modules, since this machine's time is others', too."""
    code = "import sys\ntry:\n from supervisor.cli import main; main(['--help'])\nfinally:\n print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "run     " in done.stdout
    assert not loaded & {"asyncio", "grpc", "google.protobuf", "rich", "psutil", "prometheus_client", "http.client"}


def test_the_daemon_loads_nothing_that_only_people_need(daemon: Daemon) -> None:
    code = "import sys; import supervisor.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"rich", "prometheus_client", "http.client", "google.protobuf.json_format"}


def test_doctor_as_json(cli: Cli) -> None:
    done = cli.run("doctor", "--format", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"libwasmedge", "seccomp"} <= {row["what"] for row in rows}
    assert {row["state"] for row in rows} <= {"ok", "short", "missing"}


def test_the_log_as_json() -> None:
    with Daemon("--log-format", "json") as daemon:
        lines = [json.loads(line) for line in daemon.log_text().splitlines()]
    assert any("serves on" in line["message"] and line["level"] == "info" for line in lines)
