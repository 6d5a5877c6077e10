"""Counters and states, as Prometheus reads them (``--metrics``).

The event loop gathers them in one go, and a thread turns them into text: thousands of containers are a few numbers by
then. Labels have few values: no container's name is in any.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from sandbox_api import calls

from .. import __version__
from ..aot.terms import Verdict
from ..host import proc
from ..host.counters import LEVELS, Counters, Histogram
from ..host.http import TEXT, Answer
from ..model.process import ProcessState
from ..model.registry import Registry
from ..model.sandbox import SandboxState

K = TypeVar("K", bound=str)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EXIT_KINDS = ("zero", "nonzero", "trap", "signal", "forbidden_call", "memory")
REFUSALS = ("calls", "descriptors", "memory", "processes", "disk", "other")
HELPERS = ("forkserver", "zygote", "relay", "logger")

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_PAGE = os.sysconf("SC_PAGESIZE")
_LOOK_SECONDS = 60.0
"""Seconds between two searches for zygotes: reading ten thousand children takes 10 ms."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Sources of the figures."""

    registry: Registry
    counters: Counters
    methods: Sequence[calls.Methods]
    helpers: Callable[[], Mapping[str, int]]
    """Pids of the processes that belong to the daemon, by name."""
    events_lost: Callable[[], int]
    engine: str
    images: Callable[[], tuple[int, int]]
    """How many images of loaded modules there are, and their bytes."""


class Metrics:
    """Answers a scrape."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._zygotes: list[int] = []
        self._look_at = 0.0

    async def answer(self, path: str, query: Mapping[str, str]) -> Answer:
        """``GET /metrics``."""
        if path != "/metrics":
            return Answer(b"metrics are at /metrics\n", TEXT, "404 Not Found")
        await self._find_zygotes()
        families = list(self._families())
        return Answer(await asyncio.to_thread(_text, families), CONTENT_TYPE)

    def _families(self) -> Iterator[Metric]:
        counters = self._sources.counters
        yield _gauge("info", "Version of the sandboxer and of its engine.", ("version", "engine"),
                     {(__version__, self._sources.engine): 1})  # fmt: skip
        yield from self._existing()
        stages: dict[tuple[str, ...], Histogram] = {(name,): each for name, each in counters.stages.items()}
        yield _histogram("start_stage_seconds", "Time of a start, by stage.", ("stage",), stages)
        yield _counter("exits", "Processes that ended, by how.", ("kind",), _each(EXIT_KINDS, counters.exits))
        yield from self._calls()
        yield from self._modules()
        yield _counter("events_lost", "Events that --events found no room for.", (),
                       {(): self._sources.events_lost()})  # fmt: skip
        yield _counter("helper_deaths", "Helpers that died and were replaced.", ("helper",),
                       _each(HELPERS, counters.helper_deaths))  # fmt: skip
        yield _histogram("transaction_seconds", "Time of a transaction on the state file.", (),
                         {(): counters.transactions})  # fmt: skip
        yield _gauge("recovery_seconds", "Time that recovery took at the start of the daemon.", (),
                     {(): counters.recovery_seconds})  # fmt: skip
        yield from self._helpers()

    def _existing(self) -> Iterator[Metric]:
        registry = self._sources.registry
        sandboxes = Counter(each.state for each in registry.sandboxes.values())
        containers = Counter(each.init.state for each in registry.containers.values())
        processes = Counter(process.state for _, process in registry.processes.values())
        yield _gauge("sandboxes", "Pod sandboxes, by state.", ("state",), _each(SandboxState, sandboxes))
        yield _gauge("containers", "Containers, by state.", ("state",), _each(ProcessState, containers))
        yield _gauge("processes", "Processes of containers, by state.", ("state",), _each(ProcessState, processes))

    def _calls(self) -> Iterator[Metric]:
        under_way: Counter[tuple[str, ...]] = Counter()
        answered: Counter[tuple[str, ...]] = Counter()
        refused: Counter[str] = Counter()
        for api, table in zip(("task", "sandbox"), self._sources.methods, strict=True):
            for method in {id(each): each for each in table.values()}.values():
                under_way[api, method.name] += method.under_way
                refused += method.refused
                for code, count in method.answered.items():
                    answered[api, method.name, _CODES.get(code, str(code))] += count
        yield _gauge("calls_under_way", "Calls that are not answered yet.", ("api", "method"), under_way)
        yield _counter(
            "refusals", "Calls refused for want of something, by what.", ("reason",), _each(REFUSALS, refused)
        )
        yield _counter("calls", "Calls answered, by gRPC's status code.", ("api", "method", "code"), answered)

    def _modules(self) -> Iterator[Metric]:
        counters = self._sources.counters
        yield _counter("module_hits", "Starts that ran a compiled module, by its level.", ("level",),
                       _each(LEVELS, counters.module_hits))  # fmt: skip
        yield _counter("module_misses", "Starts that found no compiled module.", (), {(): counters.module_misses})
        images, size = self._sources.images()
        yield _gauge("module_images", "Images of loaded modules.", (), {(): images})
        yield _gauge("module_image_bytes", "Memory that images of loaded modules take.", (), {(): size})
        yield _counter("module_image_starts", "Starts whose module was mapped from an image.", (),
                       {(): counters.image_starts})  # fmt: skip
        yield _counter("module_image_events", "What became of images of modules.", ("kind",),
                       _each(("made", "unfit", "dropped"), counters.images))  # fmt: skip
        compiles: dict[tuple[str, ...], Histogram] = {(level,): each for level, each in counters.compiles.items()}
        yield _histogram("compile_seconds", "Time of compiles that came to a module, by level.", ("level",), compiles)
        failures: dict[tuple[str, ...], int] = {
            (each.replace(" ", "_"),): counters.compile_failures[each] for each in Verdict
        }
        del failures[(Verdict.MADE,)]
        yield _counter("compile_failures", "Compiles that came to nothing, by why.", ("verdict",),
                       failures)  # fmt: skip

    def _helpers(self) -> Iterator[Metric]:
        memory: dict[tuple[str, ...], float] = {}
        descriptors: dict[tuple[str, ...], float] = {}
        limits: dict[tuple[str, ...], float] = {}
        for name, pid in self._pids():
            try:
                with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                    resident = int(file.read().split()[1]) * _PAGE
                opened, limit = _open_files(pid), resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
            except (FileNotFoundError, ProcessLookupError):  # it has just died
                continue
            memory[(name,)] = memory.get((name,), 0) + resident
            descriptors[(name,)] = descriptors.get((name,), 0) + opened
            limits[(name,)] = limits.get((name,), 0) + limit
        yield _gauge(
            "helper_resident_memory_bytes",
            "Resident memory of the daemon's processes.",
            ("helper",),
            memory,
        )
        yield _gauge("helper_open_fds", "Open files of the daemon's processes.", ("helper",), descriptors)
        yield _gauge("helper_max_fds", "Files that the daemon's processes may have open.", ("helper",), limits)

    def _pids(self) -> Iterator[tuple[str, int]]:
        """The daemon's processes, with the zygotes that are known and live."""
        yield from self._sources.helpers().items()
        for pid in self._zygotes:
            if (name := proc.name(pid)).startswith("zygote-"):
                yield name, pid

    async def _find_zygotes(self) -> None:
        """Look for zygotes among the forkserver's children, which thousands of workers are, too: seldom, and aside."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_SECONDS
        registry = self._sources.registry
        forkserver = self._sources.helpers().get("forkserver", 0)
        workers = [process.pid for _, process in registry.processes.values()]
        self._zygotes = await asyncio.to_thread(_zygotes, forkserver, workers)


def _zygotes(forkserver: int, workers: list[int]) -> list[int]:
    others = set(proc.children(forkserver)).difference(workers)
    return sorted(pid for pid in others if proc.name(pid).startswith("zygote-"))


def _open_files(pid: int) -> int:
    """Count a process's open files: the folder's size says so from Linux 6.2 on (proc_pid_fd(5))."""
    folder = f"/proc/{pid}/fd"
    return os.stat(folder).st_size or len(os.listdir(folder))


def _each(names: Iterable[K], counts: Mapping[K, int]) -> dict[tuple[str, ...], int]:
    """A count for each of these, 0 where there is none: a series that appears with its first event shows no rate."""
    return {(str(name),): counts.get(name, 0) for name in names}


_Values = Mapping[tuple[str, ...], float]


def _gauge(name: str, text: str, labels: Sequence[str], values: _Values) -> Metric:
    family = GaugeMetricFamily(f"wasm_sandboxer_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], values: _Values) -> Metric:
    family = CounterMetricFamily(f"wasm_sandboxer_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, labels: Sequence[str], values: dict[tuple[str, ...], Histogram]) -> Metric:
    family = HistogramMetricFamily(f"wasm_sandboxer_{name}", text, labels=labels)
    for key, histogram in values.items():
        bounds = [*(f"{bucket:g}" for bucket in histogram.buckets), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(key, buckets=buckets, sum_value=histogram.sum)
    return family


class _Gathered:
    """Families that were gathered before, for prometheus_client."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(families: Sequence[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered(families))
    return generate_latest(registry)
