"""Time without an answer when the supervisor is killed: ``python -m tests.bench.recovery [--instances 10 1000]``.

Time is from SIGKILL to the first answered Status, the new supervisor started right after the kill, as systemd
does with RestartSec=0. Then every instance is asked for, and has to run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox_api.errors import SandboxerError
from sandbox_api.proto import task_pb2 as pb

from ..harness.api import Api
from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.ttrpc import Connection


def start(pod: Pod, bundle: Path, names: list[str]) -> None:
    """Start these instances on a connection of their own."""
    with Connection(pod.daemon.task_socket, pod.namespace) as connection:
        for name in names:
            connection.call("Create", pb.CreateTaskRequest(id=name, bundle=str(bundle)))
            connection.call("Start", pb.StartRequest(id=name))


def bundle_of(pod: Pod) -> Path:
    """One bundle for all: a guest that sleeps."""
    bundle = pod.daemon.folder / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    os.link(guest("sleep"), bundle / "rootfs" / "app.wasm")
    config = {
        "ociVersion": "1.2.0",
        "process": {"args": ["/app.wasm", "100000"], "cwd": "/", "user": {"uid": 7, "gid": 7}},
        "root": {"path": "rootfs"},
        "annotations": {"io.kubernetes.cri.sandbox-id": pod.id},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def unanswered(daemon: Daemon, pod: Pod) -> tuple[float, float]:
    """Seconds from SIGKILL to the first Status, and to the first State of a task."""
    assert daemon.process is not None
    begun = time.perf_counter()
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    daemon.launch()
    task = 0.0
    while True:
        if not task:
            try:
                with Connection(daemon.task_socket, pod.namespace) as connection:
                    connection.call("State", pb.StateRequest(id="i0"))
                    task = time.perf_counter() - begun
            except (OSError, EOFError):
                pass
        if task and daemon.listen.exists():
            api = Api(daemon.listen, pod.namespace)
            try:
                api.status(pod.id)
                return time.perf_counter() - begun, task
            except SandboxerError:
                pass
            finally:
                api.close()
        time.sleep(0.005)


def running(pod: Pod, count: int) -> int:
    """How many instances run."""
    with Connection(pod.daemon.task_socket, pod.namespace) as connection:
        states = (connection.call("State", pb.StateRequest(id=f"i{number}")) for number in range(count))
        return sum(isinstance(state, pb.StateResponse) and state.status == pb.RUNNING for state in states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--deaths", type=int, default=5)
    parser.add_argument("--log-level", default="warning")
    options = parser.parse_args()
    print(f"{'instances':>10}{'first Status':>16}{'worst':>10}{'first State':>16}{'run on':>10}")
    for count in options.instances:
        with Daemon("--log-level", options.log_level) as daemon:
            pod = Pod(daemon)
            bundle = bundle_of(pod)
            names = [f"i{number}" for number in range(count)]
            with ThreadPoolExecutor(4) as pool:
                for part in range(4):
                    pool.submit(start, pod, bundle, names[part::4])
            times = []
            for number in range(options.deaths):
                times.append(unanswered(daemon, pod))
                if sys.stderr.isatty():
                    print(f"\r{count} instances: death {number + 1} of {options.deaths}", end="\r", file=sys.stderr)
            alive = running(pod, count)
            statuses, states = zip(*times, strict=True)
            print(
                f"{count:10}{statistics.median(statuses):14.2f} s{max(statuses):8.2f} s"
                f"{statistics.median(states):14.2f} s{alive:10}",
                flush=True,
            )
            pod.api.close()
            pod.api = Api(daemon.listen, pod.namespace)
            pod.shutdown()
            pod.close()


if __name__ == "__main__":
    main()
