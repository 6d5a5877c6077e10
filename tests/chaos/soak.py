"""Many short lives on one daemon, and what is left of them: ``python -m tests.chaos.soak --lifecycles 50000``.

Each is created, started, waited for and deleted. Halves are compared: what grew in the first is warm-up, what grows
in the second is a leak. Rows, control groups and mounts have to be as they were.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.ttrpc import Connection

ALLOWED_KIB = 2048
"""Bytes that one process may grow in the second half: the allocator's noise."""


@dataclass(frozen=True)
class Held:
    """Resources the daemon holds while nothing runs."""

    supervisor_kib: int
    forkserver_kib: int
    relay_kib: int
    descriptors: int
    rows: int
    state_kib: int
    groups: int
    mounts: int


def held(daemon: Daemon) -> Held:
    """Count what the daemon holds now."""
    assert daemon.process is not None
    helpers = {name: _helper(daemon, name) for name in ("forkserver", "relay")}
    supervisor = psutil.Process(daemon.process.pid)
    everybody = [supervisor, *helpers.values()]
    with contextlib.closing(sqlite3.connect(f"file:{daemon.dir}/state.db?mode=ro", uri=True)) as db:
        rows = sum(db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("containers", "processes"))
    return Held(
        supervisor.memory_info().rss >> 10,
        helpers["forkserver"].memory_info().rss >> 10,
        helpers["relay"].memory_info().rss >> 10,
        sum(process.num_fds() for process in everybody),
        rows,
        sum(path.stat().st_size for path in daemon.dir.glob("state.db*")) >> 10,
        sum(1 for _ in Path("/sys/fs/cgroup").glob("**/wasm-sandboxer/soak*/*")),
        len(daemon.mounts()),
    )


def _helper(daemon: Daemon, name: str) -> psutil.Process:
    return next(each for each in daemon.helpers() if f"/{name}.sock" in " ".join(each.cmdline()))


class Soak:
    """Clients that share a number of lifecycles."""

    def __init__(self, daemon: Daemon, clients: int) -> None:
        self._daemon = daemon
        self._clients = clients
        self._pod = Pod(daemon, f"soak{os.getpid()}")
        self._numbers = itertools.count()
        self.done = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, lifecycles: int, total: int) -> None:
        """This many more."""
        left = itertools.count(1)
        threads = [threading.Thread(target=self._live, args=(left, lifecycles, total)) for _ in range(self._clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _live(self, left: itertools.count[int], lifecycles: int, total: int) -> None:
        try:
            bundle = self._bundle()
            with Connection(self._daemon.task_socket, self._pod.namespace) as connection:
                while next(left) <= lifecycles and not self.wrong:
                    self._one(connection, bundle)
                    with self._lock:
                        self.done += 1
                        if self.done % 50 == 0 or self.done == total:
                            self._show(total)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _bundle(self) -> Path:
        """One for each client, with what there is to undo: a control group, a bind mount, a tmpfs."""
        bundle = self._daemon.folder / "bundles" / f"soak{next(self._numbers)}"
        (bundle / "rootfs").mkdir(parents=True)
        shutil.copy(guest("exit"), bundle / "rootfs" / "exit.wasm")
        (bundle / "hosts").write_text("127.0.0.1 here\n")
        config = {
            "ociVersion": "1.2.0",
            "process": {"args": ["/exit.wasm", "3"], "cwd": "/", "user": {"uid": 7, "gid": 7}},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/etc/hosts", "type": "bind", "source": str(bundle / "hosts"), "options": ["rbind"]},
            ],
            "linux": {"resources": {"pids": {"limit": 20}}},
            "annotations": {"io.kubernetes.cri.sandbox-id": self._pod.id},
        }
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def _one(self, connection: Connection, bundle: Path) -> None:
        name = f"c{next(self._numbers)}"
        connection.call("Create", pb.CreateTaskRequest(id=name, bundle=str(bundle)))
        connection.call("Start", pb.StartRequest(id=name))
        status = connection.call("Wait", pb.WaitRequest(id=name)).exit_status
        connection.call("Delete", pb.DeleteRequest(id=name))
        if status != 3:
            self.wrong.append(f"{name} ended with {status}, not 3")

    def _show(self, total: int) -> None:
        if sys.stderr.isatty():
            bar = "#" * round(self.done / total * 30)
            print(f"\r[{bar:30}] {self.done} of {total}", end="\n" if self.done == total else "", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lifecycles", type=int, default=50000)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    guest("exit")
    with Daemon("--log-level", "warning") as daemon:
        soak = Soak(daemon, options.clients)
        begun = time.monotonic()
        points = [held(daemon)]
        half = options.lifecycles // 2
        for count in (half, options.lifecycles - half):
            soak.run(count, options.lifecycles)
            time.sleep(2)  # what ends in the background, such as a relay's connections
            points.append(held(daemon))
        elapsed = time.monotonic() - begun
    print(f"{soak.done} lifecycles in {elapsed:.0f} s, {soak.done / elapsed:.0f} a second\n")
    print(f"{'':20}{'begin':>10}{'half':>10}{'end':>10}")
    for name in Held.__dataclass_fields__:
        values = [getattr(point, name) for point in points]
        print(f"{name.replace('_', ' '):20}" + "".join(f"{value:10}" for value in values))
        allowed = ALLOWED_KIB if name.endswith("kib") else 0
        if values[2] > values[1] + allowed:
            soak.wrong.append(f"{name} grew")
    for each in soak.wrong:
        print(each)
    sys.exit(bool(soak.wrong))


if __name__ == "__main__":
    main()
