"""Many short lives on one daemon, and what is left of them: ``python -m tests.chaos.soak --lifecycles 50000``.

Each is created, started, waited for and deleted, on either engine; some have execs, logs that the daemon writes, or a
client that goes in the middle of a call; events are received. What grows in the second half is a leak.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.receiver import Receiver
from ..harness.ttrpc import Connection
from .account import Account
from .holdings import Holdings, count, draw, grown, table

POINTS = 40
"""How often is counted, of the lifecycles or of the time."""
GUESTS = ("exit", "sleep", "hello")


class Soak:
    """Clients that share a number of lifecycles."""

    def __init__(self, daemon: Daemon, clients: int) -> None:
        self._daemon = daemon
        self.pod = Pod(daemon, f"soak-{daemon.folder.name}")
        self._numbers = itertools.count()
        self.done = self.received = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self._bundles = [[self._bundle(engine) for engine in ("wasmedge", "wasmtime")] for _ in range(clients)]
        """The same all the time: what a daemon remembers of a module is no leak."""

    def run(self, lifecycles: int, seconds: float, total: int) -> None:
        """This many more, or as many as the seconds allow."""
        left = itertools.takewhile(lambda _: time.monotonic() < end, range(lifecycles))
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._live, args=(left, bundles, total)) for bundles in self._bundles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _live(self, left: Iterator[int], bundles: list[Path], total: int) -> None:
        try:
            with Connection(self._daemon.task_socket, self.pod.namespace) as connection:
                for _ in left:
                    if self.wrong:
                        break
                    self._one(connection, bundles, next(self._numbers))
                    with self._lock:
                        self.done += 1
                        if self.done % 50 == 0 or self.done == total:
                            self._show(total)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _bundle(self, engine: str) -> Path:
        """One for each client and engine, with what there is to undo: a control group, a bind mount, a tmpfs."""
        bundle = self._daemon.folder / "bundles" / f"soak{next(self._numbers)}"
        (bundle / "rootfs").mkdir(parents=True)
        for name in GUESTS:
            shutil.copy(guest(name), bundle / "rootfs" / f"{name}.wasm")
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
            "annotations": {"io.kubernetes.cri.sandbox-id": self.pod.id, "run.wasm-sandboxer/engine": engine},
        }
        (bundle / "config.json").write_text(json.dumps(config))
        config["process"] = {**config["process"], "args": ["/hello.wasm"]}  # type: ignore[dict-item]
        config["annotations"] |= {"log.console.file": str(bundle / "log")}  # type: ignore[operator]
        (bundle / "logged.json").write_text(json.dumps(config))
        return bundle

    def _one(self, connection: Connection, bundles: list[Path], number: int) -> None:
        bundle = bundles[number // 5 % len(bundles)]
        kinds = (self._plain, self._plain, self._with_exec, self._logged, self._vanishing)
        kinds[number % len(kinds)](connection, bundle, f"c{number}")

    def _plain(self, connection: Connection, bundle: Path, name: str, status: int = 3) -> None:
        connection.call("Create", pb.CreateTaskRequest(id=name, bundle=str(bundle)))
        connection.call("Start", pb.StartRequest(id=name))
        self._end(connection, name, status)

    def _end(self, connection: Connection, name: str, expected: int, exec_id: str = "") -> None:
        status = connection.call("Wait", pb.WaitRequest(id=name, exec_id=exec_id)).exit_status
        connection.call("Delete", pb.DeleteRequest(id=name, exec_id=exec_id))
        if status != expected:
            self.wrong.append(f"{name} {exec_id} ended with {status}, not {expected}")

    def _with_exec(self, connection: Connection, bundle: Path, name: str) -> None:
        """A probe, as a kubelet's."""
        self._sleeping(connection, bundle, name)
        request = pb.ExecProcessRequest(id=name, exec_id="e")
        request.spec.value = json.dumps(
            {"args": ["/exit.wasm", "5"], "cwd": "/", "user": {"uid": 7, "gid": 7}}
        ).encode()
        connection.call("Exec", request)
        connection.call("Start", pb.StartRequest(id=name, exec_id="e"))
        self._end(connection, name, 5, "e")
        connection.call("Kill", pb.KillRequest(id=name, signal=15))
        self._end(connection, name, 143)

    def _sleeping(self, connection: Connection, bundle: Path, name: str) -> None:
        home = bundle / name
        home.mkdir()
        config = json.loads((bundle / "config.json").read_text())
        config["process"]["args"] = ["/sleep.wasm"]
        config["root"]["path"] = str(bundle / "rootfs")
        (home / "config.json").write_text(json.dumps(config))
        connection.call("Create", pb.CreateTaskRequest(id=name, bundle=str(home)))
        connection.call("Start", pb.StartRequest(id=name))
        shutil.rmtree(home)

    def _logged(self, connection: Connection, bundle: Path, name: str) -> None:
        """One whose output the daemon logs."""
        home = bundle / name
        home.mkdir()
        config = json.loads((bundle / "logged.json").read_text())
        config["root"]["path"] = str(bundle / "rootfs")
        config["annotations"]["log.console.file"] = str(home / "log")
        (home / "config.json").write_text(json.dumps(config))
        self._plain(connection, home, name, 0)
        if (home / "log").read_bytes().count(b"hello from WASI") != 1:
            self.wrong.append(f"{name}: its log is not whole")
        shutil.rmtree(home)

    def _vanishing(self, connection: Connection, bundle: Path, name: str) -> None:
        """A client goes with a Wait and a call under way, and another finds what it left."""
        self._sleeping(connection, bundle, name)
        with Connection(self._daemon.task_socket, self.pod.namespace) as other:
            other.send("Wait", pb.WaitRequest(id=name))
            other.send("State", pb.StateRequest(id=name))
        connection.call("Kill", pb.KillRequest(id=name, signal=9))
        self._end(connection, name, 137)

    def _show(self, total: int) -> None:
        if sys.stderr.isatty():
            bar = "#" * round(self.done / total * 30)
            print(f"\r[{bar:30}] {self.done} of {total}", end="\n" if self.done == total else "", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lifecycles", type=int, default=50000, help="500,000 take hours")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="by the clock; then it ends, and judges")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--picture", type=Path, default=Path(".cache/soak.png"), help="where to draw (bench extra)")
    options = parser.parse_args()
    for name in GUESTS:
        guest(name)
    with contextlib.ExitStack() as cleanup:
        account = Account()
        cleanup.callback(account.close)
        daemon = Daemon("--log-level", "warning")
        daemon.prefix = account.prefix
        daemon.add_options("--events", str(daemon.folder / "events.sock"))
        events = Receiver(daemon.folder / "events.sock")
        cleanup.callback(events.close)
        cleanup.enter_context(daemon)
        soak = Soak(daemon, options.clients)
        begun = time.monotonic()
        end = begun + options.minutes * 60
        points: list[Holdings] = [count(daemon, account, 0, soak.pod.namespace)]
        while soak.done < options.lifecycles and time.monotonic() < end and not soak.wrong:
            share = min(-(-options.lifecycles // POINTS), options.lifecycles - soak.done)
            soak.run(share, min(options.minutes * 60 / POINTS, end - time.monotonic()), options.lifecycles)
            time.sleep(1)  # what ends in the background, such as a relay's connections
            points.append(count(daemon, account, soak.done, soak.pod.namespace))
            soak.received += events.drop()
            print(f"{time.monotonic() - begun:.0f} s: {points[-1]}", flush=True)
        elapsed = time.monotonic() - begun
    print(f"{soak.done} lifecycles in {elapsed:.0f} s, {soak.done / elapsed:.0f} a second, {soak.received} events\n")
    print(table(points))
    if draw(points, options.picture):
        print(f"\n{options.picture}")
    for each in soak.wrong + grown(points):
        print(each)
    sys.exit(bool(soak.wrong or grown(points)))


if __name__ == "__main__":
    main()
