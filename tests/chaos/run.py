"""Kill any part at any moment, under load, and see that nothing is lost: ``python -m tests.chaos.run --seconds 60``.

Clients hand over, create, start, exec, pause, limit, kill, stop and delete at random, on both engines, with images.
What happens to the daemon meanwhile is in ``strikes``. After each, and at the end, all that the clients know is
compared with what the daemon answers and with what is in /proc.

One seed is one plan (``plan``), which the names that a run prints stand for:

- the strikes, their order, the pauses before them, and all that each draws;
- for each client step by step what it does in each state that it may find, on which of its things, and what it makes
  there: the container of client 3's step 17 has the same name and is the same wherever that step makes one.

Not the same is what depends on time: how many steps a client has done when a strike comes, in which instruction that
finds the daemon, and so which states clients find, and how many strikes and steps there are.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sqlite3
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil

from ..harness.guests import guest
from . import plan
from .client import Client
from .containers import GUESTS
from .model import Shared
from .node import Node
from .plan import strikes
from .strikes import Strikes

SETTLE_SECONDS = 10.0
ALLOWED_GROWTH = 12 << 20
"""Bytes of resident memory that a daemon may have more at the end than one that has just begun."""


@dataclass(frozen=True)
class Held:
    """Resources the daemon's processes hold while nothing runs."""

    memory: int
    descriptors: int
    processes: int


class Chaos(Strikes):
    """A daemon under attack."""

    def __init__(self, daemon: Node, clients: int, seed: int) -> None:
        super().__init__(daemon, Shared())
        self._seed = seed
        self._namespace = f"chaos-{daemon.folder.name}"  # runs in other pid namespaces may share the control groups
        self._clients = [Client(daemon, self.shared, self._namespace, number, seed) for number in range(clients)]

    def run(self, seconds: float, most: int | None = None) -> dict[str, int]:
        """Have so many strikes at most, for so long; the figures. ``shared.wrong`` has what went wrong."""
        for each in GUESTS:
            guest(each)
        began = self._held()
        progress = Progress(seconds)
        for client in self._clients:
            client.thread.start()
        end = time.monotonic() + seconds
        for strike in islice(strikes(self._seed), most):
            if time.monotonic() >= end or self.shared.wrong:
                break
            time.sleep(strike.pause)
            self._random = random.Random(strike.seed)
            getattr(self, f"_{strike.kind}")()
            with self.shared.quiet():
                self._audit()
            progress.show(self.shared)
        self.shared.stop.set()
        for client in self._clients:
            client.thread.join(180)
            if client.thread.is_alive():
                self.shared.complain(f"{client.name} hangs")
        progress.done()
        leftovers = self._leftovers()
        self.daemon.jump(0)
        self.daemon.tree = self.daemon.trees[0]
        self.daemon.stop()  # so that both sides of the comparison are a daemon that has just begun
        self.daemon.start()
        ended = self._held()
        for name in ("memory", "descriptors", "processes"):
            before, after = getattr(began, name), getattr(ended, name)
            if after > before + (ALLOWED_GROWTH if name == "memory" else 0):
                leftovers.append(f"{name}: {before} at the beginning, {after} at the end")
        self.shared.wrong += [f"left over: {each}" for each in leftovers]
        counts = self.shared.counts
        return {
            "operations": counts["operations"],
            "answers lost in a death": counts["answers lost"],
            "deaths of the supervisor": counts["supervisor"],
            "deaths of the forkserver": counts["forkserver"],
            "deaths of the relay": counts["relay"],
            "upgrades and rollbacks": counts["switches"],
            "times that helpers were stopped": counts["suspended"],
            "times that the disk was full": counts["full disks"],
            "times without memory": counts["no memory"],
            "jumps of the clock": counts["jumps"],
            "broken peers": counts["broken peers"],
            "frames lost": counts["frames lost"],
            "frames twice": counts["frames twice"],
            "clients that vanished in a call": counts["vanished"],
            "refused for want of disk or memory": counts["refused"],
            "exits told": counts["exits told"],
            "  of which nobody could know the status": counts["statuses nobody can know"],
            "Waits answered across deaths": counts["waits answered on their first connection"],
            "comparisons with the model": counts["audits"],
            "losses": len(self.shared.wrong) - len(leftovers),
            "leftovers": len(leftovers),
            "memory at the beginning, KiB": began.memory >> 10,
            "memory at the end, KiB": ended.memory >> 10,
        }

    # Comparisons.

    def _audit(self) -> None:
        self.shared.count("audits")
        pids: list[int] = []
        for client in self._clients:
            if client.thread.is_alive():
                pids += client.audit()
        if len(pids) != len(set(pids)):
            self.shared.complain("two processes have one pid")
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            there = {process.pid for process in self.daemon.all_workers()}
            if there <= set(pids):
                return
            if time.monotonic() > deadline:
                self.shared.complain(f"workers that no daemon knows: {sorted(there - set(pids))}")
                return
            time.sleep(0.05)

    def _leftovers(self) -> list[str]:
        """List what is left although every client has taken down all of its own."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := list(self._look_for_leftovers())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _look_for_leftovers(self) -> list[str]:
        left = [f"worker {process.pid}" for process in self.daemon.all_workers()]
        left += [f"mount {mount}" for mount in self.daemon.mounts()]
        for tree in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
            if (group := tree / "wasm-sandboxer" / self._namespace).exists():
                left.append(f"control group {group}")
        with contextlib.closing(sqlite3.connect(f"file:{self.daemon.dir}/state.db?mode=ro", uri=True)) as db:
            for table in ("sandboxes", "containers", "processes", "prepared"):
                (rows,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
                if rows:
                    left.append(f"{rows} rows in {table}")
        left += [f"folder {path}" for path in (self.daemon.dir / "bundles").glob("*/*")]
        left += [f"folder {path}" for path in (self.daemon.dir / "containers").glob("*/*")]
        left += [f"bundle {path}" for path in (self.daemon.folder / "bundles").glob("*")]
        return left

    def _held(self) -> Held:
        """Count what the daemon's processes hold, once that has come to rest."""
        before = None
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            assert self.daemon.process is not None
            everybody = [psutil.Process(self.daemon.process.pid), *self.daemon.helpers()]
            with contextlib.suppress(psutil.NoSuchProcess):
                now = Held(
                    sum(process.memory_info().rss for process in everybody),
                    sum(process.num_fds() for process in everybody),
                    len(everybody),
                )
                if now == before:
                    return now
                before = now
            time.sleep(0.5)
        assert before is not None
        return before


class Progress:
    """A line on a terminal's stderr that says how far it is."""

    def __init__(self, seconds: float) -> None:
        self._begun = time.monotonic()
        self._seconds = seconds
        self._shown = sys.stderr.isatty()

    def show(self, shared: Shared) -> None:
        if self._shown:
            part = min((time.monotonic() - self._begun) / self._seconds, 1)
            deaths = shared.counts["supervisor"] + shared.counts["forkserver"]
            bar = "#" * round(part * 30)
            print(f"\r[{bar:30}] {shared.counts['operations']} operations, {deaths} deaths ", end="", file=sys.stderr)

    def done(self) -> None:
        if self._shown:
            print(file=sys.stderr)


def table(figures: dict[str, int]) -> str:
    """Names and numbers, aligned."""
    widest = max(map(len, figures))
    digits = max(len(str(number)) for number in figures.values())
    return "\n".join(f"{name:{widest}}  {number:{digits}}" for name, number in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long there are deaths")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep-log", type=Path, help="where to put the daemon's log")
    options = parser.parse_args()
    with Node() as daemon:
        chaos = Chaos(daemon, options.clients, options.seed)
        try:
            figures = chaos.run(options.seconds)
        finally:
            if options.keep_log:
                options.keep_log.write_text(daemon.log_text())
    print(f"strikes {plan.name(options.seed)}, plans {plan.name_of_plans(options.seed, options.clients)}")
    print(table({"seed": options.seed} | figures))
    for each in chaos.shared.wrong:
        print(each)
    sys.exit(bool(chaos.shared.wrong))


if __name__ == "__main__":
    main()
