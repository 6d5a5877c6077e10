"""Control groups of these tests' own, and guests that join them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from supervisor.cgroups import Cgroup, Hierarchy, detect

from .groups import ECHO, NAME, ROOT, UNIFIED, Guest, Join, leftovers


@pytest.fixture
def join() -> Iterator[Join]:
    guests: list[Guest] = []

    def start(group: Cgroup, code: str = ECHO) -> Guest:
        guests.append(Guest(group, code))
        return guests[-1]

    yield start
    for state in [*ROOT.glob(f"freezer/{NAME}/**/freezer.state")]:
        state.write_text("THAWED")
    for guest in guests:
        guest.end()
    for top in leftovers():
        for folder, _, _ in os.walk(top, topdown=False):
            os.rmdir(folder)


@pytest.fixture
def v1(join: Join) -> Hierarchy:
    return detect()


@pytest.fixture
def v2(join: Join) -> Iterator[Hierarchy]:
    enabled = (UNIFIED / "cgroup.subtree_control").read_text().split()
    yield detect(str(UNIFIED))
    for state in UNIFIED.glob(f"{NAME}/**/cgroup.freeze"):
        state.write_text("0")
    for kill in UNIFIED.glob(f"{NAME}/cgroup.kill"):
        kill.write_text("1")
    deadline = time.monotonic() + 10
    while "populated 1" in "".join(each.read_text() for each in UNIFIED.glob(f"{NAME}/cgroup.events")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for folder, _, _ in os.walk(UNIFIED / NAME, topdown=False):
        os.rmdir(folder)
    for controller in (UNIFIED / "cgroup.subtree_control").read_text().split():
        if controller not in enabled:
            try:
                (UNIFIED / "cgroup.subtree_control").write_text(f"-{controller}")
            except OSError:  # another run of these tests needs it, and will switch it off
                pass
