"""One seed of the chaos run is one plan, in whatever process and whatever comes of it."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ..chaos.client import Client
from ..chaos.model import Pod, Shared
from ..chaos.plan import ACTS, KINDS, name, name_of_plans, steps, strikes
from ..chaos.strikes import Strikes
from ..harness.daemon import Daemon


@pytest.mark.parametrize("what", ["name(1)", "name_of_plans(1, 3)"])
def test_a_seed_has_names(what: str) -> None:
    def named() -> str:
        program = f"from tests.chaos.plan import *; print({what})"
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert named() == named() == f"{eval(what)}\n"


def test_other_seeds_have_others() -> None:
    assert len({name(seed) for seed in range(20)} | {name_of_plans(seed, 2) for seed in range(20)}) == 40
    assert name_of_plans(1, 2) != name_of_plans(1, 3)


def test_every_kind_comes_and_is_there() -> None:
    assert {strike.kind for strike in islice(strikes(1), 300)} == set(KINDS)
    assert all(callable(getattr(Strikes, f"_{kind}")) for kind in KINDS)


def test_every_act_comes() -> None:
    planned = list(islice(steps(1, 0), 1000))
    assert {state: {step.acts[state] for step in planned} for state in ACTS} == {
        state: set(acts) for state, acts in ACTS.items()
    }


def test_what_a_step_makes_is_the_same_whatever_came_before(tmp_path: Path) -> None:
    """One of the clients has had to look again and again, and has made nothing so far."""

    def made(folder: str, unlucky: bool) -> list[Any]:
        daemon = Daemon(folder=tmp_path / folder)
        daemon.folder.mkdir()
        client = Client(daemon, Shared(), "ns", 3, 5)
        found: list[Any] = []
        for number in range(50):
            client._next_step()
            if unlucky:
                client._whims.random()
            if not unlucky or number > 25:
                wanted = client._wanted(Pod("pod", {"ready"}, "v2"))
                found.append((wanted.name, str(wanted.config).replace(str(daemon.folder), ""), wanted.terminal))
        return found

    lucky = made("lucky", False)
    assert len({config for _, config, _ in lucky}) == len(lucky)
    assert made("unlucky", True) == lucky[26:]


def test_the_log_of_a_plan_can_be_printed() -> None:
    command = [sys.executable, "-m", "tests.chaos.plan", "--seed", "4", "--clients", "2", "--count", "3"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 3 + 2 * 3 + 1
    assert lines[-1] == f"strikes {name(4)}, plans {name_of_plans(4, 2)}"
