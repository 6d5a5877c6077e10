"""Measures the system calls of confined workers, for the allow list in supervisor/seccomp/allowed.py.

    python -m tests.bench.measure_syscalls

Runs every conformance guest, interpreted and compiled, under strace, confined by Landlock alone, and prints each
call with how often it was seen, a sample, and whether the allow list has it. Ends with 1 where it lacks one.
Needs root, strace and libwasmedge.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from supervisor.seccomp.allowed import allowed_calls

from ..harness.aot import product
from ..harness.bare_forkserver import BareForkserver
from ..harness.guests import guest

MARK = "landlock_restrict_self("
TRAPS = "none unreachable divide bounds table type stack abort raise"
RUNS = [
    ("files", ("ro",)),
    ("clocks", ()),
    ("memory", ()),
    ("streams", ()),
    ("sockets", ()),
    *(("traps", (kind,)) for kind in TRAPS.split()),
]
FAMILIAR_PATHS = re.compile(r'"(/proc/self/fd/\d+(/\.)?)"')


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        traces = Path(folder, "traces")
        traces.mkdir()
        forkserver = BareForkserver(
            broken_out=False, under=("strace", "-ff", "-qq", "-s", "48", "-o", str(traces / "trace"))
        )
        pids = {pid: label for label, pid in _run_all(forkserver, Path(folder))}
        forkserver.close()
        calls, samples, paths = _read(traces, pids)
    known = allowed_calls(network=True)
    for name, count in sorted(calls.items()):
        print(f"{'' if name in known else 'NOT ALLOWED ':12}{name:18}{count:7}  {samples[name]}")
    print(f"\nallowed and not seen here: {' '.join(sorted(known - calls.keys()))}")
    print(f"\npaths opened by name, all but the module's and preopens': {' '.join(sorted(paths)) or 'none'}")
    if not calls.keys() <= known:
        sys.exit(1)


def _run_all(forkserver: BareForkserver, folder: Path) -> Iterator[tuple[str, int]]:
    for name, args in RUNS:
        wasm = guest(f"conformance_{name}")
        for module in (wasm, product(wasm)):
            for stdin in ("pipe", "terminal") if name == "streams" else ("",):
                label = " ".join((module.name, *args, stdin))
                yield label, _run(forkserver, folder, module, args, stdin)


def _run(forkserver: BareForkserver, folder: Path, module: Path, args: tuple[str, ...], stdin: str) -> int:
    root, readonly = folder / "root", folder / "ro"
    root.mkdir(exist_ok=True)
    readonly.mkdir(exist_ok=True)
    (readonly / "fixed").write_text("fixed")
    theirs, ours = os.pipe() if stdin != "terminal" else reversed(os.openpty())
    os.write(ours, b"line\n" if stdin != "terminal" else b"line\n\x04")
    if stdin != "terminal":
        os.close(ours)
    worker = forkserver.start(
        "x", *args, module=module, stdin=theirs, network=True, folders=[(root, False), (readonly, True)]
    )
    os.close(theirs)
    outcome = worker.wait()
    assert outcome.report == "R", outcome
    if stdin == "terminal":
        os.close(ours)
    return worker.pid


def _read(traces: Path, pids: dict[int, str]) -> tuple[Counter[str], dict[str, str], set[str]]:
    calls: Counter[str] = Counter()
    samples: dict[str, str] = {}
    paths: set[str] = set()
    for pid, label in pids.items():
        _, _, after = (traces / f"trace.{pid}").read_text(errors="replace").partition(MARK)
        for line in after.splitlines()[1:]:
            found = re.match(r"(\w+)\((.*)", line)
            if not found:
                continue
            name, rest = found.groups()
            calls[name] += 1
            samples.setdefault(name, f"{label}: {name}({rest}"[:110])
            if '"/' in rest and not FAMILIAR_PATHS.search(rest):
                paths.update(re.findall(r'"(/[^"]*)"', rest))
    return calls, samples, paths


if __name__ == "__main__":
    main()
