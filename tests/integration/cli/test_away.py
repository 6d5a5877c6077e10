"""Commands while their daemon dies under them, or is away; and what Ctrl-C does to them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ...harness.cli import SECONDS, Cli, Command
from ...harness.compiled import until
from ...harness.daemon import Daemon
from ...harness.guests import guest
from ...harness.helpers import forkserver


def kernels(process: Command, name: str) -> str:
    """What the kernel says of a process."""
    return Path(f"/proc/{process.pid}/{name}").read_text()


@pytest.fixture
def own() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


def test_a_log_is_followed_over_a_restart_of_the_daemon(own: Daemon) -> None:
    cli = Cli(own)
    name = cli.out("run", "-d", guest("tick"), "100", "0").strip()
    with cli.start("logs", "-f", name) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        own.kill()
        assert following.stdout.readline()
        own.start()
        rest = following.stdout.read().splitlines()
        assert following.wait(SECONDS) == 0
    assert len(rest) == 98
    cli.out("rm", name)


def test_what_follows_a_daemon_that_has_gone_says_so(own: Daemon) -> None:
    cli = Cli(own)
    name = cli.out("run", "-d", guest("sleep"), "1000").strip()
    with cli.start("events", "-f") as events, cli.start("logs", "-f", name) as log:
        for each in (events, log):
            assert each.stdout is not None
            assert each.stdout.readline()
        own.kill()
        for each in (events, log):
            assert each.stderr is not None
            said = each.stderr.read()
            assert len(said.splitlines()) == 1
            assert "the daemon in" in said or "nobody serves on" in said
            assert each.wait(SECONDS) == 1
    own.start()
    cli.out("rm", "-f", name)


def test_a_third_interrupt_ends_a_client_whose_daemon_is_away(own: Daemon) -> None:
    cli = Cli(own)
    with cli.start("run", "--name", "waits", guest("sleep"), "1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        own.kill()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            until("the signal is taken", lambda: "ShdPnd:\t0000000000000000" in kernels(process, "status"))
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 128 + signal.SIGINT
    own.start()
    cli.out("rm", "-f", "waits")


@pytest.mark.parametrize("words", [("logs", "-f", "waits"), ("stats", "--interval", "60")])
def test_an_interrupt_ends_a_command_without_a_word(own: Daemon, words: tuple[str, ...]) -> None:
    cli = Cli(own)
    cli.out("run", "-d", "--name", "waits", guest("sleep"), "1000")
    with cli.start(*words) as process:
        assert process.stdout is not None
        if "logs" in words:
            assert process.stdout.readline() == "up\n"
        else:
            until("the interval", lambda: "nanosleep" in kernels(process, "wchan"))
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
    cli.out("rm", "-f", "waits")


@contextmanager
def held_start(own: Daemon, cli: Cli, *words: str | Path) -> Iterator[Command]:
    """A command whose start the forkserver has not begun; it goes on with its start at the end."""
    server = forkserver(own)
    server.suspend()
    try:
        with cli.start(*words) as process:
            until("a start", lambda: '"starting"' in cli.run("inspect", "waits").stdout)
            yield process
            server.resume()
    finally:
        server.resume()


def test_an_interrupt_before_the_guest_runs_leaves_nothing(own: Daemon) -> None:
    cli = Cli(own)
    cli.out("run", "--rm", guest("hello"))  # all zygotes are there
    with held_start(own, cli, "run", "--name", "waits", guest("sleep"), "1000") as process:
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # it removes what it has made, once that can be
            process.wait(0.5)
    assert process.returncode == 128 + signal.SIGINT
    assert cli.out("ps", "-aq") == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_a_guest_runs_in_the_background_leaves_nothing(own: Daemon, number: int) -> None:
    cli = Cli(own)
    cli.out("run", "--rm", guest("hello"))
    with held_start(own, cli, "run", "-d", "--name", "waits", guest("sleep"), "1000") as process:
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    assert process.returncode == 128 + number
    assert cli.out("ps", "-aq") == ""


def test_an_interrupt_before_an_exec_runs_leaves_nothing_of_it(own: Daemon) -> None:
    cli = Cli(own)
    cli.out("run", "-d", "--name", "waits", guest("sleep"), "1000")
    with held_start(own, cli, "exec", "waits", "/sleep.wasm", "1000") as process:
        process.send_signal(signal.SIGINT)
    assert process.returncode == 128 + signal.SIGINT
    assert [each["exec_id"] for each in json.loads(cli.out("inspect", "waits"))["processes"]] == [""]
    assert len(own.workers()) == 1
    cli.out("rm", "-f", "waits")


def test_drain_takes_no_time_below_zero(own: Daemon) -> None:
    cli = Cli(own)
    cli.out("run", "-d", "--name", "waits", guest("sleep"), "1000")
    refused = cli.run("drain", "--timeout", "-1")
    assert (refused.returncode, refused.stderr.splitlines()[-1][:36]) == (2, "Error: Invalid value for '--timeout'")
    cli.out("rm", "-f", "waits")
