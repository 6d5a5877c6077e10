"""``python -m tests.fuzz``: run the targets, or some of them, and say what came of it.

What is found on the way is kept in .cache/fuzz, and the next run goes on from there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

from .running import Result, Running
from .target import HERE, Target, names, of_turn


@click.command()
@click.option("--minutes", default=1.0, show_default=True, help="Of processor time for each target.")
@click.option("--at-most", default=0.0, help="Minutes by the clock for all of them together: then it ends.")
@click.option("--jobs", default=1, show_default=True, help="Run so many beside each other: one for each processor.")
@click.option(
    "--turn",
    default=0,
    help="As CI: those that every commit is to run, and so many of the others, until all had their turn.",
)
@click.option("--replay", type=click.Path(exists=True, path_type=Path), help="Run one input of a single target again.")
@click.argument("targets", nargs=-1, type=click.Choice(names()))
def main(minutes: float, at_most: float, jobs: int, turn: int, replay: Path | None, targets: tuple[str, ...]) -> None:
    """Fuzz TARGETS, or all."""
    chosen = list(targets) or names()
    if replay is not None:
        Target(chosen[0]).run(replay.read_bytes())
        click.echo("nothing is wrong with it")
        return
    if turn:
        chosen = of_turn(chosen, turn, _commits())
    results = fuzz(chosen, minutes * 60, at_most * 60 or float("inf"), max(jobs, 1))
    _report(results)
    sys.exit(any(result.fault for result in results))


def fuzz(chosen: list[str], seconds: float, most: float, jobs: int) -> list[Result]:
    """Fuzz each for these seconds of processor time, and all of them at most so many by the clock."""
    end = time.monotonic() + most
    results: list[Result] = []
    running: list[Running] = []
    waiting = chosen.copy()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                left = end - time.monotonic()
                share = min(left, left * jobs / len(waiting))
                running.append(Running(waiting.pop(0), seconds, share))
            time.sleep(0.5)
            for each in running.copy():
                if each.look():
                    running.remove(each)
                    results.append(each.result)
                    _line(f"{len(results)}/{len(chosen)} {each.result}", last=True)
            _line("; ".join(f"{len(results)}/{len(chosen)} {each.result}" for each in running))
    finally:
        for each in running:
            each.close()
    return results


def _line(text: str, last: bool = False) -> None:
    """Write over the terminal's line, or end it; only what ends a line is for a file."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        click.echo(f"\r{text[: width - 1]:<{width - 1}}", nl=last)
    elif last:
        click.echo(text)


def _report(results: list[Result]) -> None:
    for result in results:
        if result.fault is not None:
            click.echo(f"\n{result.said}\n{result.name}: run it again with")
            click.echo(f"  {sys.executable} -m tests.fuzz --replay {result.fault} {result.name}")
    faults = sum(result.fault is not None for result in results)
    runs = sum(result.executions for result in results)
    click.echo(f"{len(results)} targets, {runs:,} runs, {faults} faults")


def _commits() -> int:
    """How many commits there are: 0 where that is not known."""
    counted = subprocess.run(["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True, cwd=HERE)
    return int(counted.stdout or 0)


if __name__ == "__main__":
    main()
