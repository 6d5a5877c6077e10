"""``make demo``: one pod, several WASM containers at once, each with streams of its own, and how each ended."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from .harness.container import Collected, Container, Pod
from .harness.daemon import Daemon
from .harness.guests import guest

GUESTS = ("cat", "hello", "exit", "trap", "sleep")


class Row:
    """A container of the demo: what it is given, and what came of it."""

    def __init__(self, pod: Pod, name: str, module: str, *args: str, stdin: str = "", kill: int = 0) -> None:
        builder = pod.with_wasm(module).args(*args).fifos("stdout", "stderr")
        if stdin:
            builder.fifos("stdin")
        self.name = name
        self.stdin = stdin
        self.kill = kill
        self.container: Container = builder.build()
        self.output = Collected(self.container.bundle / "stdout")
        self.errors = Collected(self.container.bundle / "stderr")
        self.status = -1

    def start(self) -> None:
        self.container.start()
        if self.stdin:
            (self.container.bundle / "stdin").write_text(self.stdin)

    def finish(self) -> None:
        if self.kill:
            self.container.kill(self.kill)
        self.status = self.container.wait()
        self.container.delete()

    def cells(self) -> list[str]:
        ended = f"killed by signal {self.kill}" if self.kill else "trapped" if self.status == 134 else "by itself"
        wrote = " / ".join(
            text.strip().replace("\n", " | ") for text in (self.output.text(), self.errors.text()) if text
        )
        return [self.name, str(self.container.pid), self.stdin.strip(), wrote, str(self.status), ended]


def table(rows: list[list[str]]) -> str:
    """Rows under a header, in columns as wide as they need."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def running(pids: set[int]) -> list[psutil.Process]:
    """Those processes that have not ended."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def main() -> None:
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say("compiling the guests from C (once)")
    for name in GUESTS:
        guest(name)
    say("starting a sandboxer on private paths")
    with Daemon() as daemon:
        folder, before = daemon.folder, {process.pid for process in daemon.helpers()}
        pod = Pod(daemon)
        say(f"pod sandbox {pod.id} is ready; running its containers")
        rows = [
            Row(pod, "cat one", "cat", stdin="the first one's input\n"),
            Row(pod, "cat two", "cat", stdin="the second one's input\n"),
            Row(pod, "hello", "hello"),
            Row(pod, "fails", "exit", "7"),
            Row(pod, "traps", "trap"),
            Row(pod, "killed", "sleep", "3600", kill=9),
        ]
        begun = time.perf_counter()
        for row in rows:
            row.start()
        for row in rows:
            row.finish()
        elapsed = time.perf_counter() - begun
        print(table([["CONTAINER", "PID", "STDIN", "WROTE", "STATUS", "ENDED"], *(row.cells() for row in rows)]))
        print(f"\n{len(rows)} containers started and ended in {elapsed * 1000:.0f} ms")
        pod.stop()
        pod.shutdown()
        pod.close()
        mounts = daemon.mounts()
        started = before | {process.pid for process in daemon.helpers()}
        daemon.stop()
        psutil.wait_procs(running(started), timeout=10)
        left = [process.pid for process in daemon.helpers()]
    if left or mounts or Path(folder).exists():
        sys.exit(f"left behind: processes {left}, mounts {mounts}, folder {folder}")
    print("everything is taken down: no process, no mount and no file is left")


if __name__ == "__main__":
    main()
