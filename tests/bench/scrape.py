"""Scrapes with many instances alive: ``python -m tests.bench.scrape [--instances 10000]``.

Tells how long a scrape takes, and how long lifecycles take beside scrapes (``--every``; 0: without a pause) and
without any, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox_api.proto import task_pb2 as pb
from supervisor.commands.client import UnixConnection

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.ttrpc import Connection
from .recovery import bundle_of, start

TURNS = 20
STARTS = 20


def scrape(path: Path) -> float:
    """Seconds of a scrape."""
    began = time.perf_counter()
    connection = UnixConnection(path)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    passed = time.perf_counter() - began
    connection.close()
    assert b"wasm_sandboxer_processes" in text
    return passed


def starts(connection: Connection, bundle: Path, names: list[str]) -> list[float]:
    """Seconds from Create to Start's answer, of each."""
    times = []
    for name in names:
        began = time.perf_counter()
        connection.call("Create", pb.CreateTaskRequest(id=name, bundle=str(bundle)))
        connection.call("Start", pb.StartRequest(id=name))
        times.append(time.perf_counter() - began)
        connection.call("Kill", pb.KillRequest(id=name, signal=9))
        connection.call("Wait", pb.WaitRequest(id=name))
        connection.call("Delete", pb.DeleteRequest(id=name))
    return times


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=0.1, help="seconds between two scrapes beside starts")
    options = parser.parse_args()
    path = None
    with Daemon("--log-level", "warning", "--metrics", "unix:/run/wasm-scrape.sock") as daemon:
        path = Path("/run/wasm-scrape.sock")
        pod = Pod(daemon)
        bundle = bundle_of(pod)
        names = [f"i{number}" for number in range(options.instances)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda part: start(pod, bundle, names[part::4]), range(4)))
        times = [scrape(path) for _ in range(50)]
        print(
            f"{options.instances} instances: a scrape takes {statistics.median(times) * 1e3:.1f} ms, "
            f"{max(times) * 1e3:.1f} ms at most"
        )
        alone: list[float] = []
        beside: list[float] = []
        scrapes: list[float] = []
        with Connection(daemon.task_socket, pod.namespace) as connection:
            for turn in range(TURNS):
                alone += starts(connection, bundle, [f"a{turn}-{number}" for number in range(STARTS)])
                over = threading.Event()

                def scraper(over: threading.Event = over) -> None:
                    while not over.wait(options.every):
                        scrapes.append(scrape(path))

                thread = threading.Thread(target=scraper)
                thread.start()
                beside += starts(connection, bundle, [f"b{turn}-{number}" for number in range(STARTS)])
                over.set()
                thread.join()
        for name, found in (("alone", alone), ("beside scrapes", beside)):
            cuts = statistics.quantiles(found, n=100)
            print(f"a start {name}: median {cuts[49] * 1e3:.2f} ms, 99 % within {cuts[98] * 1e3:.2f} ms")
        print(
            f"ratio of medians {statistics.median(beside) / statistics.median(alone):.2f}, with {len(scrapes)} scrapes "
            f"of {statistics.median(scrapes) * 1e3:.1f} ms beside {len(beside)} starts"
        )
        pod.shutdown()
        pod.close()


if __name__ == "__main__":
    main()
