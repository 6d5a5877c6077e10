"""What a daemon's processes and its node hold, counted now, and drawn over a run."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import psutil

from ..harness.daemon import Daemon
from .account import Account

ALLOWED_KIB = 2048
"""Bytes that one process may grow in the second half: the allocator's noise."""
ALLOWED_SLAB_KIB = 64 << 10
"""The slab is the whole machine's: other programs use it, too."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Resources held while nothing runs."""

    lifecycles: int
    supervisor_kib: int
    forkserver_kib: int
    relay_kib: int
    logger_kib: int
    zygotes_kib: int
    descriptors: int
    threads: int
    processes: int
    memory_files: int
    rows: int
    state_kib: int
    inodes: int
    groups: int
    mounts: int
    kernel_kib: int
    """For all of the daemon's processes, without what the kernel can take back."""
    memory_pages_kib: int
    """Page cache of memory files and of tmpfs, of theirs."""
    slab_kib: int
    """The machine's, without what the kernel can take back."""


NAMES = [field.name for field in fields(Holdings) if field.name != "lifecycles"]


def count(daemon: Daemon, account: Account, lifecycles: int, namespace: str) -> Holdings:
    """Count what is held now, after so many lifecycles."""
    assert daemon.process is not None
    everybody = [psutil.Process(daemon.process.pid), *{each.pid: each for each in daemon.helpers()}.values()]
    memory = {"supervisor": everybody[0].memory_info().rss >> 10, "forkserver": 0, "relay": 0, "logger": 0, "zygote": 0}
    descriptors = threads = files = 0
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            name = _name(process)
            if process is not everybody[0]:
                memory[name] = memory.get(name, 0) + (process.memory_info().rss >> 10)
            descriptors += process.num_fds()
            threads += process.num_threads()
            files += sum(os.readlink(link).startswith("/memfd:") for link in Path(f"/proc/{process.pid}/fd").iterdir())
    with contextlib.closing(sqlite3.connect(f"file:{daemon.dir}/state.db?mode=ro", uri=True)) as database:
        tables = ("containers", "processes", "prepared")
        rows = sum(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)
    groups = [*Path("/sys/fs/cgroup").glob(f"wasm-sandboxer/{namespace}/*")]
    groups += Path("/sys/fs/cgroup").glob(f"*/wasm-sandboxer/{namespace}/*")
    lines = Path("/proc/meminfo").read_text().splitlines()
    slab = next(line for line in lines if line.startswith("SUnreclaim:"))
    return Holdings(
        lifecycles,
        memory["supervisor"],
        memory["forkserver"],
        memory["relay"],
        memory["logger"],
        memory["zygote"],
        descriptors,
        threads,
        len(everybody),
        files,
        rows,
        sum(path.stat().st_size for path in daemon.dir.glob("state.db*")) >> 10,
        sum(1 for path in daemon.dir.rglob("*") if path.exists()),
        len([group for group in groups if group.is_dir()]),
        len(daemon.mounts()),
        *account.count(),
        int(slab.split()[1]),
    )


def _name(process: psutil.Process) -> str:
    if process.name().startswith("zygote"):
        return "zygote"
    last = process.cmdline()[-1].rpartition("/")[2]
    return last.partition("-")[0]


def grown(points: Sequence[Holdings]) -> list[str]:
    """What grew in the second half: what grew in the first is warm-up."""
    begin, end = points[len(points) // 2], points[-1]
    wrong = []
    for name in NAMES:
        allowed = ALLOWED_SLAB_KIB if name == "slab_kib" else ALLOWED_KIB if name.endswith("kib") else 0
        before, after = getattr(begin, name), getattr(end, name)
        if after > before + allowed:
            wrong.append(f"{name} grew: {before} after half of it, {after} at the end")
    return wrong


def table(points: Sequence[Holdings]) -> str:
    """Begin, half and end."""
    lines = [f"{'':20}{'begin':>10}{'half':>10}{'end':>10}"]
    for name in NAMES:
        values = [getattr(point, name) for point in (points[0], points[len(points) // 2], points[-1])]
        lines.append(f"{name.replace('_', ' '):20}" + "".join(f"{value:10}" for value in values))
    return "\n".join(lines)


def draw(points: Sequence[Holdings], picture: Path) -> bool:
    """A plot of each over the lifecycles; false where matplotlib (the ``bench`` extra) is not here."""
    if find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    columns = 3
    figure, axes = pyplot.subplots(-(-len(NAMES) // columns), columns, figsize=(10, 12), sharex=True)
    for each in axes.flat[len(NAMES) :]:
        each.remove()
    for name, each in zip(NAMES, axes.flat, strict=False):
        each.plot([point.lifecycles for point in points], [getattr(point, name) for point in points], color="#1f6fb2")
        each.set_title(name.replace("_", " "))
        each.set_ylim(bottom=0)
        each.locator_params(axis="x", nbins=4)
    figure.supxlabel("lifecycles")
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=80, metadata={"Software": None})
    return True
