"""``python -m tests.fuzz``: run the targets one after the other, or some of them, and say what came of it.

What is found on the way is kept in .cache/fuzz, and the next run goes on from there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from .target import CORPUS, HERE, Target, names

SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None
FOLDER = HERE.parent.parent / ".cache/fuzz"
_LINE = re.compile(rb"#(\d+)\s+\w+ +cov: (\d+) ft: (\d+) corp: (\d+)/")
_UNCAUGHT = " === Uncaught Python exception: ==="
_OPTIONS = ("-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1", "-reload=0")


@dataclass(slots=True)
class Result:
    """What came of a target."""

    name: str
    executions: int = 0
    edges: int = 0
    inputs: int = 0
    seconds: float = 0.0
    """Of processor time."""
    fault: Path | None = None
    said: str = ""


@click.command()
@click.option("--minutes", default=1.0, show_default=True, help="Of processor time for each target.")
@click.option("--at-most", default=0.0, help="Minutes by the clock for all of them together: then it ends.")
@click.option("--turn", default=0, help="Run so many alone: others with each commit, until all had their turn.")
@click.option("--replay", type=click.Path(exists=True, path_type=Path), help="Run one input of a single target again.")
@click.argument("targets", nargs=-1, type=click.Choice(names()))
def main(minutes: float, at_most: float, turn: int, replay: Path | None, targets: tuple[str, ...]) -> None:
    """Fuzz TARGETS, or all."""
    chosen = list(targets) or names()
    if replay is not None:
        Target(chosen[0]).run(replay.read_bytes())
        click.echo("nothing is wrong with it")
        return
    if turn:
        first = _commits() * turn
        chosen = [chosen[(first + i) % len(chosen)] for i in range(min(turn, len(chosen)))]
    end = time.monotonic() + at_most * 60 if at_most else float("inf")
    results = []
    for number, name in enumerate(chosen, 1):
        left = (end - time.monotonic()) / (len(chosen) - number + 1)
        results.append(fuzz(name, minutes * 60, left, f"{number}/{len(chosen)}"))
    _report(results)
    sys.exit(any(result.fault for result in results))


def fuzz(name: str, seconds: float, most: float, number: str) -> Result:
    """Fuzz a target for these seconds of processor time, and at most so many by the clock."""
    folder, faults = FOLDER / name, FOLDER / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    faults.mkdir(exist_ok=True)
    words = FOLDER / f"{name}.words"
    words.write_text("".join(map(_quoted, Target(name).words)))
    result = Result(name)
    began = time.monotonic()
    # libFuzzer ends without any of Python's clearing up.
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=SCRATCH) as scratch, open(FOLDER / f"{name}.log", "wb") as log:
        command = [sys.executable, "-m", "tests.fuzz.child", name, *_OPTIONS]
        command += [f"-dict={words}"] if words.stat().st_size else []
        command += [f"-artifact_prefix={faults}/{name}-", str(folder), str(CORPUS / name)]
        environment = {**os.environ, "TMPDIR": scratch}
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=HERE.parent.parent, env=environment)
        try:
            child = psutil.Process(process.pid)
            while process.poll() is None:
                time.sleep(0.5)
                _look(log.name, result)
                times = child.cpu_times()
                result.seconds = times.user + times.system
                if result.seconds >= seconds or time.monotonic() - began >= most:
                    process.send_signal(signal.SIGUSR1)
                    process.wait(60)
                _show(result, number)
        except psutil.NoSuchProcess:
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    _look(log.name, result)
    said = Path(log.name).read_text(errors="replace")
    found = re.search(r"Test unit written to (\S+)", said)
    if found:
        result.fault = Path(found[1])
        result.said = said[max(said.find(_UNCAUGHT), 0) : found.start()][:4000]
    elif "stat::number_of_executed_units" not in said:
        result.fault, result.said = Path(log.name), said[-1000:]
    _show(result, number, last=True)
    return result


def _look(log: str, result: Result) -> None:
    """What libFuzzer said last of how far it is."""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 20000))
        said = file.read()
    for line in _LINE.finditer(said):
        result.executions, result.edges, _, result.inputs = map(int, line.groups())
    for total in re.findall(rb"stat::number_of_executed_units: +(\d+)", said):
        result.executions = int(total)


def _show(result: Result, number: str, last: bool = False) -> None:
    fault = f"  FAULT: {result.fault}" if result.fault else ""
    text = (
        f"{number} {result.name}: {result.executions:,} runs, {result.edges:,} edges, {result.inputs:,} inputs, "
        f"{result.seconds:.0f} s{fault}"
    )
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


def _quoted(word: bytes) -> str:
    """A word of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def _commits() -> int:
    """How many commits there are: 0 where that is not known."""
    counted = subprocess.run(["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True, cwd=HERE)
    return int(counted.stdout or 0)


if __name__ == "__main__":
    main()
