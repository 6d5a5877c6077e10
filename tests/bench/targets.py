"""Targets beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import compute, density, images, lifecycle, modules, throughput
from .figures import OURS, Figure, Results
from .rivals import CRUN, WASMEDGE
from .table import quantity

QUICKJS = modules.START.format("640 KiB, as large as QuickJS, generated")
MANY, MOST = 20_000, 50_000


@dataclass(frozen=True, slots=True)
class Target:
    """One line."""

    text: str
    measured: str
    met: bool | None
    """None where it was not measured."""


def targets(results: Results) -> Iterator[Target]:
    """All of them."""

    def compared(
        text: str, slow: Figure | None, fast: Figure | None, *, least: float = 0.0, most: float = float("inf")
    ) -> Target:
        if slow is None or fast is None:
            return Target(text, "not measured", None)
        value = slow.median / fast.median
        return Target(text, f"{value:.2f} times", least <= value <= most)

    def measured(text: str, figure: Figure | None, *, least: float = 0.0, most: float = float("inf")) -> Target:
        if figure is None:
            return Target(text, "not measured", None)
        return Target(text, quantity(figure.median, figure.unit), least <= figure.median <= most)

    whole = {who: results.find(lifecycle.SECTION, lifecycle.WHOLE, who) for who in (OURS, WASMEDGE, CRUN)}
    yield compared("A lifecycle is 4 times faster than the `wasmedge` program", whole[WASMEDGE], whole[OURS], least=4)
    yield compared("A lifecycle is 8 times faster than `crun run`", whole[CRUN], whole[OURS], least=8)

    rate = results.find(throughput.SECTION, throughput.WHAT, at=32)
    yield measured("250 lifecycles a second with 32 clients, client included", rate, least=250)

    memory = {figure.at: figure for figure in results.series(density.SECTION, density.MEMORY)}
    yield measured("At most 600 KiB for each of 2,000 idle instances", memory.get(2000), most=600)
    for most in (280, 225):
        yield measured(f"At most {most} KiB for each of 20,000 idle instances", memory.get(MANY), most=most)
    most_alive = max(memory, default=0)
    text = "50,000 idle instances alive at once on 24 GiB"
    yield Target(text, f"{most_alive:,} alive", most_alive >= MOST) if memory else Target(text, "not measured", None)

    start = {figure.at: figure for figure in results.series(density.SECTION, density.START)}
    text = "A start with 20,000 others alive takes at most 1.3 times one with none"
    yield compared(text, start.get(MANY), start.get(0), most=1.3)
    kept = results.series(density.SECTION, density.KEPT, "supervisor")
    text = "An idle instance with a pending Task Wait costs the supervisor less than 8 KiB"
    yield measured(text, kept[-1] if kept else None, most=8)
    pods = results.series(density.SECTION, density.POD)
    text = "A sandbox with a pending gRPC Wait costs the supervisor less than 20 KiB"
    yield measured(text, pods[-1] if pods else None, most=20)

    fast, slow = (results.find(compute.SECTION, compute.WHAT, who) for who in (OURS, compute.INTERPRETED))
    text = "A guest that computes takes at most 1.05 times what the `wasmedge` program takes on the same artifact"
    yield compared(text, fast, results.find(compute.SECTION, compute.WHAT, WASMEDGE), most=1.05)
    yield compared("A guest that computes is 15 times faster than interpreted", slow, fast, least=15)

    ours, theirs, plain = (
        results.find(modules.SECTION, modules.SOLVER, who) for who in (OURS, WASMEDGE, modules.INTERPRETED)
    )
    text = "boolector ends within 10 ms of the `wasmedge` program on the same artifact"
    if ours and theirs:
        yield Target(text, f"{ours.median - theirs.median:+.1f} ms", ours.median - theirs.median <= 10)
    else:
        yield Target(text, "not measured", None)
    yield compared("boolector is 20 times faster than interpreted", plain, ours, least=20)
    text = "A module as large as QuickJS starts in under 5 ms, warm"
    yield measured(text, results.find(modules.SECTION, QUICKJS), most=5)

    yield from _images(results, compared, measured)


def _images(results: Results, compared: Callable[..., Target], measured: Callable[..., Target]) -> Iterator[Target]:
    """Of instances from images."""

    def found(what: str, program: str = "", who: str = OURS, at: int = 0) -> Figure | None:
        return results.find(images.SECTION, what.format(program), who, at)

    whole = images.WHOLE
    text = "`boolector --version` is 5 times faster than by the `wasmedge` program on the same product"
    yield compared(text, found(whole, images.SOLVER, WASMEDGE), found(whole, images.SOLVER), least=5)
    ours, theirs = found(images.SOLVED), found(images.SOLVED, who=WASMEDGE)
    text = "boolector solves a small problem in 20 ms less than there"
    if ours and theirs:
        yield Target(text, f"{ours.median - theirs.median:+.1f} ms", ours.median - theirs.median <= -20)
    else:
        yield Target(text, "not measured", None)
    for program, most in ((images.LARGE, 4), (images.MIDDLE, 2.6), (images.SMALL, 1.7)):
        yield measured(f"First byte of {program}, in {most} ms", found(images.FIRST, program), most=most)
    text = "1,000 lifecycles a second with 32 clients"
    yield measured(text, found(images.RATES, images.SMALL), least=1000)
    for program, most in ((images.SMALL, 280), (images.PRINTF, 300), (images.SOLVER, 1200)):
        text = f"At most {most} KiB for each of {images.ALIVE} idle instances: {program}"
        yield measured(text, found(images.MEMORY, program, at=images.ALIVE), most=most)
    large, small = (found(images.MEMORY, each, at=images.ALIVE) for each in (images.LARGE, images.SMALL))
    text = "An idle instance of 5 MiB takes at most 400 KiB more than one of 26 KiB"
    if large and small:
        yield Target(text, quantity(large.median - small.median, large.unit), large.median - small.median <= 400)
    else:
        yield Target(text, "not measured", None)


def verdict(target: Target) -> str:
    """In a word or two."""
    return {True: "met", False: "**not met**", None: ""}[target.met]
