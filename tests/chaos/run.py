"""Kill any part at any moment, under load, and see that nothing is lost: ``python -m tests.chaos.run --seconds 60``.

Clients hand over, create, start, exec, pause, limit, kill, stop and delete at random; supervisor, forkserver and relay
are killed and started again at random moments. After every restart, and at the end, all
that the clients know is compared with what the daemon answers and with what is in /proc. One seed makes the same
choices, not the same interleaving.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisor.ipc.forkserver import label

from ..harness.daemon import FORKED, Daemon
from ..harness.guests import guest
from .client import Client
from .containers import GUESTS
from .model import Shared

SETTLE_SECONDS = 10.0
ALLOWED_GROWTH = 12 << 20
"""Bytes of resident memory that a daemon may have more at the end than one that has just begun."""


@dataclass(frozen=True)
class Held:
    """Resources the daemon's processes hold while nothing runs."""

    memory: int
    descriptors: int
    processes: int


class Chaos:
    """A daemon under attack."""

    def __init__(self, daemon: Daemon, clients: int, seed: int) -> None:
        self.daemon = daemon
        self.shared = Shared()
        self._random = random.Random(seed)
        self._namespace = f"chaos{os.getpid()}"
        self._clients = [Client(daemon, self.shared, self._namespace, number, seed) for number in range(clients)]

    def run(self, seconds: float) -> dict[str, int]:
        """The figures; ``shared.wrong`` has what went wrong."""
        for each in GUESTS:
            guest(each)
        began = self._held()
        progress = Progress(seconds)
        for client in self._clients:
            client.thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.shared.wrong:
            time.sleep(self._random.uniform(0.05, 1.0))
            self._strike()
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
            "exits told": counts["exits told"],
            "  of which nobody could know the status": counts["statuses nobody can know"],
            "Waits answered across deaths": counts["waits answered on their first connection"],
            "comparisons with the model": counts["audits"],
            "losses": len(self.shared.wrong) - len(leftovers),
            "leftovers": len(leftovers),
            "memory at the beginning, KiB": began.memory >> 10,
            "memory at the end, KiB": ended.memory >> 10,
        }

    # Deaths.

    def _strike(self) -> None:
        strike = self._random.choice(
            [
                self._supervisor,
                self._supervisor,
                self._forkserver,
                self._forkserver,
                self._relay,
                self._both,
                self._while_it_starts,
            ]
        )
        strike()

    def _supervisor(self) -> None:
        self._end_supervisor()
        time.sleep(self._random.choice([0, 0, self._random.uniform(0, 0.5)]))
        self.daemon.start()

    def _end_supervisor(self, kill: bool = False) -> None:
        self.shared.count("supervisor")
        assert self.daemon.process is not None
        supervisor = self.daemon.process.pid
        # Orphans of a dead forkserver are init's children: an exit just now is reported to init alone.
        adopted = any(worker.info["ppid"] == supervisor for worker in self._workers())
        if adopted:
            self._blind()
        if kill or self._random.random() < 0.6:
            self.daemon.kill()
        else:
            self.daemon.stop()
        if adopted:
            self._blind()

    def _forkserver(self) -> None:
        server = self._find("forkserver")
        if server is None:
            return
        self.shared.count("forkserver")
        assert self.daemon.process is not None
        ours = server.ppid() == self.daemon.process.pid
        if not ours:  # its workers become init's: one that ends before the supervisor looks has told nobody
            self._blind()
        with contextlib.suppress(psutil.NoSuchProcess):
            server.send_signal(self._random.choice([signal.SIGKILL, signal.SIGTERM]))
            server.wait(10)
        if not ours:
            self._blind()
        deadline = time.monotonic() + 10
        while self._find("forkserver") is None:
            if time.monotonic() > deadline:
                self.shared.complain("no new forkserver within 10 s")
                return
            time.sleep(0.02)

    def _both(self) -> None:
        server = self._find("forkserver")
        first = self._random.random() < 0.5
        if first:
            self._end_supervisor()
        self._blind()
        if server is not None:
            self.shared.count("forkserver")
            with contextlib.suppress(psutil.NoSuchProcess):
                server.kill()
                server.wait(10)
        if not first:
            self._end_supervisor()
        time.sleep(self._random.choice([0, self._random.uniform(0, 0.3)]))
        self.daemon.start()
        self._blind()

    def _while_it_starts(self) -> None:
        """Death in the middle of recovery."""
        self._end_supervisor()
        for _ in range(self._random.randint(1, 3)):
            self.daemon.launch()
            time.sleep(self._random.uniform(0, 0.8))
            self._end_supervisor(kill=True)
        self.daemon.start()

    def _relay(self) -> None:
        """Terminals hang up, and inputs end, which no guest here reads."""
        relay = self._find("relay")
        if relay is not None:
            self.shared.count("relay")
            self.shared.hung_up.append(time.monotonic())  # clients see it at once
            with contextlib.suppress(psutil.NoSuchProcess):
                relay.kill()
                relay.wait(10)
            self.shared.hung_up.append(time.monotonic())  # and of those that were started meanwhile
        if self._random.random() < 0.3:  # before there is another
            self._supervisor()

    def _blind(self) -> None:
        self.shared.blind.append(time.monotonic())

    def _find(self, helper: str) -> psutil.Process | None:
        socket = f"{self.daemon.dir}/{helper}.sock"
        for process in psutil.process_iter(["cmdline", "name"]):
            if {socket, label(socket)} & set(process.info["cmdline"] or []) and process.info["name"] not in FORKED:
                return process
        return None

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
            there = {process.pid for process in self._workers()}
            if there <= set(pids):
                return
            if time.monotonic() > deadline:
                self.shared.complain(f"workers that no daemon knows: {sorted(there - set(pids))}")
                return
            time.sleep(0.05)

    def _workers(self) -> list[psutil.Process]:
        socket = label(f"{self.daemon.dir}/forkserver.sock")
        found = []
        for process in psutil.process_iter(["cmdline", "name", "ppid"]):
            if socket in (process.info["cmdline"] or []) and process.info["name"] == "wasm-worker":
                found.append(process)
        return found

    def _leftovers(self) -> list[str]:
        """List what is left although every client has taken down all of its own."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := list(self._look_for_leftovers())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _look_for_leftovers(self) -> list[str]:
        left = [f"worker {process.pid}" for process in self._workers()]
        left += [f"mount {mount}" for mount in self.daemon.mounts()]
        groups = Path("/sys/fs/cgroup").glob(f"**/wasm-sandboxer/{self._namespace}")
        left += [f"control group {group}" for group in groups]
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
    with Daemon() as daemon:
        chaos = Chaos(daemon, options.clients, options.seed)
        try:
            figures = chaos.run(options.seconds)
        finally:
            if options.keep_log:
                options.keep_log.write_text(daemon.log_text())
    print(table({"seed": options.seed} | figures))
    for each in chaos.shared.wrong:
        print(each)
    sys.exit(bool(chaos.shared.wrong))


if __name__ == "__main__":
    main()
