"""A target under way: the process that fuzzes it, and what came of it so far."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from .target import CORPUS, HERE, Target

SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None
ROOT = HERE.parent.parent
FOLDER = ROOT / ".cache/fuzz"
END_SECONDS = 60
"""A run that was told to end may be in the middle of a slow input."""
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

    def __str__(self) -> str:
        fault = f"  FAULT: {self.fault}" if self.fault else ""
        counts = f"{self.executions:,} runs, {self.edges:,} edges, {self.inputs:,} inputs, {self.seconds:.0f} s"
        return f"{self.name}: {counts}{fault}"


class Running:
    """A target that is fuzzed for these seconds of processor time, and at most so many by the clock."""

    def __init__(self, name: str, seconds: float, most: float) -> None:
        self.result = Result(name)
        self._seconds = seconds
        self._end = time.monotonic() + most
        self._log = FOLDER / f"{name}.log"
        command = _command(name)
        # libFuzzer ends without any of Python's clearing up.
        self._scratch = tempfile.TemporaryDirectory(prefix="fuzz-", dir=SCRATCH)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "TMPDIR": self._scratch.name},
            )
        self._times = psutil.Process(self._process.pid)

    def look(self) -> bool:
        """See how far it is, and end it when its time is over; whether it has ended."""
        ended = self._process.poll() is not None
        self._read()
        if ended:
            self._judge()
            self.close()
            return True
        times = self._times.cpu_times()
        self.result.seconds = times.user + times.system
        now = time.monotonic()
        if self._seconds and (self.result.seconds >= self._seconds or now >= self._end):
            self._seconds, self._end = 0, now + END_SECONDS
            self._process.send_signal(signal.SIGUSR1)
        elif not self._seconds and now >= self._end:
            self._process.kill()
        return False

    def close(self) -> None:
        """End it as it is."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._scratch.cleanup()

    def _read(self) -> None:
        """What libFuzzer said last of how far it is."""
        with self._log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 20000))
            said = file.read()
        result = self.result
        for line in _LINE.finditer(said):
            result.executions, result.edges, _, result.inputs = map(int, line.groups())
        for total in re.findall(rb"stat::number_of_executed_units: +(\d+)", said):
            result.executions = int(total)

    def _judge(self) -> None:
        said = self._log.read_text(errors="replace")
        found = re.search(r"Test unit written to (\S+)", said)
        if found:
            self.result.fault = Path(found[1])
            self.result.said = said[max(said.find(_UNCAUGHT), 0) : found.start()][:4000]
        elif "stat::number_of_executed_units" not in said:
            self.result.fault, self.result.said = self._log, said[-1000:]


def _command(name: str) -> list[str]:
    folder, faults, words = FOLDER / name, FOLDER / "faults", FOLDER / f"{name}.words"
    folder.mkdir(parents=True, exist_ok=True)
    faults.mkdir(exist_ok=True)
    words.write_text("".join(map(_quoted, Target(name).words)))
    command = [sys.executable, "-m", "tests.fuzz.child", name, *_OPTIONS]
    command += [f"-dict={words}"] if words.stat().st_size else []
    return [*command, f"-artifact_prefix={faults}/{name}-", str(folder), str(CORPUS / name)]


def _quoted(word: bytes) -> str:
    """A word of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'
