"""Lifecycles a second, with 1, 8 and 32 clients that never pause. The guest ends at once."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

from ..harness.daemon import ROOT
from ..harness.guests import guest
from . import programs, rivals
from .figures import OURS, RATE, Figure
from .load import Order
from .options import Options
from .progress import Progress
from .rivals import CRUN, WASMEDGE, Command, Job
from .site import Site, Workload

SECTION = "throughput"
WHAT = "lifecycles a second, by clients"
CLIENTS = (1, 8, 32)
TURNS = 3
SECONDS = 3.0

_numbers = itertools.count(1)


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Rates, the client's own processor time included."""
    module = guest("hello")
    programs.warm(module)
    seconds = options.seconds(SECONDS)
    with Site(cache=programs.AOT) as site, rivals.crun_in(site.daemon.folder / "crun") as crun:
        workload = site.workload(module)

        def ours(clients: int) -> float:
            return lives_a_second(site, workload, clients, seconds)

        contenders: dict[str, Callable[[int], float] | None] = {OURS: ours, WASMEDGE: None, CRUN: None}
        job = Job(programs.product(module))
        if rivals.wasmedge():
            command = rivals.wasmedge_command(job)
            contenders[WASMEDGE] = lambda clients: _spawning([lambda: command] * clients, seconds)
        if crun:
            # One for each client: crun makes /dev/ptmx in its root, and fails where another has just made it.
            runs = [partial(crun.run, crun.bundle(job)) for _ in range(max(CLIENTS))]
            contenders[CRUN] = lambda clients: _spawning(runs[:clients], seconds)
        turns = 1 if options.quick else TURNS
        ours(1)  # the first lives of a daemon are slower
        for clients in CLIENTS:
            progress.part(f"{SECTION}: {clients} client{'s' if clients > 1 else ''}")
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            for turn in range(turns):
                for name, rate in contenders.items():
                    if rate is not None:
                        rates[name].append(round(rate(clients), 2))
                progress.step(turn + 1, turns)
            for name, rate in contenders.items():
                note = "" if rate is not None else rivals.NOT_INSTALLED
                yield Figure(SECTION, WHAT, name, RATE, tuple(rates[name]), clients, note)


def lives_a_second(site: Site, workload: Workload, clients: int, seconds: float) -> float:
    """Lifecycles a second, of clients that never pause, in a process of their own."""
    bundles = [str(site.task(workload).bundle) for _ in range(clients)]
    return _in_a_process(
        Order(str(site.daemon.task_socket), site.pod.namespace, bundles, seconds, f"l{next(_numbers)}")
    )


def _in_a_process(order: Order) -> float:
    command = [sys.executable, "-m", "tests.bench.load"]
    text = json.dumps(asdict(order))
    return float(subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=True).stdout)


def _spawning(commands: Sequence[Callable[[], Command]], seconds: float) -> float:
    """Programs run one after another by a thread for each of these, which do nothing but wait."""
    begun = time.perf_counter()
    end = begun + seconds

    def one(command: Callable[[], Command]) -> int:
        done = 0
        while time.perf_counter() < end:
            command().run_to_end()
            done += 1
        return done

    with ThreadPoolExecutor(len(commands)) as pool:
        done = sum(pool.map(one, commands))
    return done / (time.perf_counter() - begun)
