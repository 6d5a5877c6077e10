"""Both engines, WasmEdge and Wasmtime, in the same run: times, rates, memory, and starts of what nobody has seen.

All confined, compiled, through the Task API. Wasmtime's subject is the sandboxer with ``--engine wasmtime``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from ..harness.guests import guest
from ..harness.modules import custom
from . import programs
from .compute import STEPS
from .figures import OURS, RATE, Figure, kib, milliseconds
from .machine import settled
from .options import Options
from .progress import Progress
from .rivals import interleaved
from .site import Crowd, Site, Workload, first_byte, lifecycle, run_to_end
from .throughput import lives_a_second

SECTION = "engines"
WASMTIME = f"{OURS}, Wasmtime"
ENGINES = {OURS: "wasmedge", WASMTIME: "wasmtime"}
WHOLE, FIRST = "create, start, wait, delete: 26 KiB", "create to first byte: 26 KiB"
SOLVER = "boolector (1.2 MiB) solves a small problem, create to the end"
COMPUTE = "xorshift and a table, create to the end"
YOSYS = "Yosys (66 MiB) says its version, create to the end"
RATES = "lifecycles a second with 32 clients: 26 KiB"
MEMORY = "memory of an idle instance, all kernel memory and its threads' included"
COLD = "cold, --aot always (waits for the compiler), create to first byte: {}"
ROUNDS, FEW_ROUNDS, COLD_ROUNDS, SECONDS = 200, 20, 3, 3.0
ALIVE = 1000
SIZES = {"1 MiB, generated": 1 << 20, "5 MiB, generated": 5 << 20}
REFUSED = "WasmEdge refuses it: exceptions of the final form"
UNFETCHED = "not fetched: make bench-peers"

Contenders = dict[str, Callable[[], float]]


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Both engines take turns in everything that is a time; memory is one after the other."""
    small = [guest(name) for name in ("hello", "sleep", "busy")]
    solver = None if options.quick else programs.boolector()
    progress.part(f"{SECTION}: compiling ahead, where no run before has")
    for engine in ENGINES.values():
        programs.warm(*small, *([solver] if solver else []), engine=engine)
    with ExitStack() as stack:
        sites = {name: stack.enter_context(Site(cache=programs.AOT, engine=engine)) for name, engine in ENGINES.items()}
        yield from _times(sites, solver, options, progress)
    for name, engine in ENGINES.items():
        progress.part(f"{SECTION}: idle, {name}")
        with Site(cache=programs.AOT, engine=engine) as site:
            yield _memory(name, site, options)
    if not options.quick:
        for what, size in SIZES.items():
            yield from _cold(what, programs.sized(size), ENGINES, progress)
        yield from _yosys(progress)


def _times(sites: dict[str, Site], solver: Path | None, options: Options, progress: Progress) -> Iterator[Figure]:
    steps = str(STEPS // 100 if options.quick else STEPS)
    with ExitStack() as stack:
        connections = {name: stack.enter_context(site.connect()) for name, site in sites.items()}

        def each(run: Callable[[str, Workload], float], *of: object) -> Contenders:
            module, *args = of
            assert isinstance(module, Path)
            files = [programs.problem()] if module == solver else []
            laid = {name: site.workload(module, *map(str, args), files=files) for name, site in sites.items()}
            return {name: lambda name=name: run(name, laid[name]) for name in sites}  # type: ignore[misc]

        def whole(name: str, workload: Workload) -> float:
            return lifecycle(connections[name], sites[name].task(workload))

        def first(name: str, workload: Workload) -> float:
            return first_byte(connections[name], sites[name].piped(workload))

        def to_end(name: str, workload: Workload) -> float:
            return run_to_end(connections[name], sites[name].task(workload))

        def solves(name: str, workload: Workload) -> float:
            return run_to_end(connections[name], sites[name].task(workload), programs.UNSATISFIABLE)

        hello = guest("hello")
        parts = [
            (WHOLE, each(whole, hello), ROUNDS),
            (FIRST, each(first, hello), ROUNDS),
            (COMPUTE, each(to_end, guest("busy"), steps), FEW_ROUNDS),
        ]
        if solver:
            parts.append((SOLVER, each(solves, solver, f"/{programs.problem().name}"), FEW_ROUNDS))
        for what, contenders, rounds in parts:
            progress.part(f"{SECTION}: {what}")
            for contender in contenders.values():
                for _ in range(5):  # the second has an image made, where the engine has them
                    contender()
            for name, seconds in interleaved(contenders, options.rounds(rounds), progress.step).items():
                yield milliseconds(SECTION, what, name, seconds)
    if solver is None and not options.quick:
        for name in sites:
            yield milliseconds(SECTION, SOLVER, name, (), note=UNFETCHED)
    for name, site in sites.items():
        rate = lives_a_second(site, site.workload(guest("hello")), 32, options.seconds(SECONDS))
        yield Figure(SECTION, RATES, name, RATE, (round(rate, 1),))


def _memory(name: str, site: Site, options: Options) -> Figure:
    brief, idle = site.workload(guest("hello")), site.workload(guest("sleep"), "1000000")
    with site.connect() as connection:
        for _ in range(10):
            lifecycle(connection, site.task(brief))
    crowd = Crowd(site, idle)
    for _ in crowd.grow(3):
        pass
    before, begun, count = settled(options.settle), crowd.alive, options.rounds(ALIVE)
    for _ in crowd.grow(begun + count):
        pass
    after = settled(options.settle)
    site.shutdown()
    crowd.close()
    return kib(SECTION, MEMORY, (before["MemAvailable"] - after["MemAvailable"]) / count, subject=name, at=count)


def _cold(
    name: str, module: Path, engines: dict[str, str], progress: Progress, *args: str, rounds: int = COLD_ROUNDS
) -> Iterator[Figure]:
    """A sandboxer of its own for each start, with an empty cache, and a module that none has seen."""
    for subject, engine in engines.items():
        progress.part(f"{SECTION}: {name}, cold, {subject}")
        seconds = []
        for number in range(rounds):
            with Site("always", engine=engine) as site, site.connect() as connection:
                first_byte(connection, site.piped(site.workload(guest("hello"))))
                workload = site.workload(module, *args)
                with (workload.rootfs / "app.wasm").open("ab") as file:
                    file.write(custom(b"round", bytes([number])))
                seconds.append(first_byte(connection, site.piped(workload)))
            progress.step(number + 1, rounds)
        yield milliseconds(SECTION, COLD.format(name), subject, seconds)


def _yosys(progress: Progress) -> Iterator[Figure]:
    """A program that WasmEdge refuses: cold, and from the cache."""
    module, what = programs.yosys(), "Yosys (66 MiB)"
    yield milliseconds(SECTION, YOSYS, OURS, (), note=REFUSED)
    if module is None:
        yield milliseconds(SECTION, YOSYS, WASMTIME, (), note=UNFETCHED)
        return
    programs.warm(module, engine=ENGINES[WASMTIME])
    with Site(cache=programs.AOT, engine=ENGINES[WASMTIME]) as site, site.connect() as connection:
        workload = site.workload(module, "-V")
        times = [run_to_end(connection, site.task(workload)) for _ in range(FEW_ROUNDS + 1)][1:]
    yield milliseconds(SECTION, YOSYS, WASMTIME, times)
    yield from _cold(what, module, {WASMTIME: ENGINES[WASMTIME]}, progress, "-V", rounds=1)
