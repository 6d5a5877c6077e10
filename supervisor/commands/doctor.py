"""``wasm-sandboxer doctor``: what this host gives, what each is for, and the command that mends what is short."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import click

from workers.confinement import landlock

from .. import cgroups
from ..host import interpreters, linux, sockets
from ..seccomp.allowed import worker_filters
from ..seccomp.library import LIBRARY, SeccompMissing
from .tables import format_option


class State(StrEnum):
    """State of one thing that a host gives."""

    OK = "ok"
    SHORT = "short"
    MISSING = "missing"


_COLOURS = {State.OK: "green", State.SHORT: "yellow", State.MISSING: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table. ``remedy`` is a command, or a hint where no command would do."""

    what: str
    state: State
    found: str
    purpose: str
    remedy: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """Places to look at, and answers of the system: everything that a test wants to choose."""

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")
    engine: Callable[[], tuple[bool, str]] = lambda: engine_version()
    second_engine: Callable[[], tuple[bool, str]] = lambda: _run("engines.wasmtime.version")
    landlock_abi: Callable[[], int] = landlock.abi
    empty_root: Callable[[], tuple[bool, str]] = lambda: empty_root()
    filters: Callable[[], object] = worker_filters
    mounts: Callable[[], bool] = linux.has_mount_setattr
    events: str = sockets.CONTAINERD_EVENTS
    open_files: Callable[[], int] = lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def read(self, path: str) -> str:
        """A file below ``proc``; empty where it is not there."""
        try:
            return (self.proc / path).read_text(errors="replace").strip()
        except OSError:
            return ""


# capabilities(7): number, what it is for. The first five are required.
_CAPABILITIES = {
    "CAP_SYS_ADMIN": (21, "mounts, network namespaces"),
    "CAP_SETUID": (7, "containers' users"),
    "CAP_SETGID": (6, "containers' groups"),
    "CAP_SETPCAP": (8, "no capability is ever regained"),
    "CAP_KILL": (5, "signals to containers"),
    "CAP_DAC_OVERRIDE": (1, "bundles of any owner"),
    "CAP_CHOWN": (0, "terminals"),
    "CAP_SYS_RESOURCE": (24, "limits above our own, OOM scores below it"),
}
_REQUIRED_CAPABILITIES = 5
_CONTROLLERS = {1: ("memory", "cpu", "cpuset", "pids", "freezer"), 2: ("memory", "cpu", "cpuset", "pids")}
_MANY = 131_072
"""Processes, threads and files that a full node may want."""


def examine(host: Host) -> list[Finding]:
    """All findings, in the order of the table."""
    return [
        _libwasmedge(host),
        _libwasmtime(host),
        _landlock(host),
        _empty_root(host),
        _seccomp(host),
        _module_images(host),
        _cgroups(host),
        _number(
            "kernel.pid_max",
            host.read("sys/kernel/pid_max"),
            "each instance is a process",
            f"sysctl -w kernel.pid_max={1 << 22}",
        ),
        _number(
            "kernel.threads-max",
            host.read("sys/kernel/threads-max"),
            "each instance is a thread",
            f"sysctl -w kernel.threads-max={1 << 20}",
        ),
        _number(
            "open files",
            str(host.open_files()),
            "streams, terminals and connections of many containers at once",
            "ulimit -Hn 1048576 before the start; as a unit, LimitNOFILE=1048576",
        ),
        _mounts(host),
        _overlay(host),
        _namespaces(host),
        _capabilities(host),
        _events(host),
    ]


@click.command()
@format_option
def doctor(form: str) -> None:
    """Check what the sandboxer needs of this host: what each thing is for, and how to mend what is missing.

    Ends with 1 where something is missing that it cannot do without.

    \b
    Example:
      wasm-sandboxer doctor
    """
    findings = examine(Host())
    if form == "json":
        for finding in findings:
            click.echo(json.dumps(asdict(finding)))
    else:
        for line in table(findings):
            click.echo(line)  # without colours where it is no terminal
    if any(finding.required and finding.state is State.MISSING for finding in findings):
        sys.exit(1)


def table(findings: Iterable[Finding]) -> list[str]:
    """The findings as aligned lines, with escape sequences for colours."""
    rows = list(findings)
    head = ("CHECK", "STATE", "FOUND", "FOR")
    cells = [(each.what, each.state.value, each.found, each.purpose) for each in rows]
    widths = [max(len(row[column]) for row in [head, *cells]) for column in range(3)]

    def line(row: tuple[str, str, str, str], colour: str | None) -> str:
        texts = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        if colour:
            texts[1] = click.style(texts[1], fg=colour)
        return "  ".join([*texts, row[3]])

    lines = [line(head, None)]
    for finding, row in zip(rows, cells, strict=True):
        lines.append(line(row, _COLOURS[finding.state]))
        if finding.state is not State.OK and finding.remedy:
            lines.append(f"{'':{widths[0]}}  -> {finding.remedy}")
    return lines


def engine_version() -> tuple[bool, str]:
    """Whether the engine loads, and its version or what is wrong. In a process of its own: it is large, and native."""
    return _run("engines.wasmedge.version")


def empty_root() -> tuple[bool, str]:
    """Whether workers get an empty root, or why not. In a process of its own, which is in it for good."""
    return _run("confinement.empty_root")


def _run(module: str) -> tuple[bool, str]:
    """Run a helper that ends by itself: whether it went well, and the last line that it said."""
    command, environment = interpreters.helper(module)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    said = (done.stdout or done.stderr).strip().splitlines()
    return done.returncode == 0, said[-1] if said else f"ended with {done.returncode}"


def _libwasmedge(host: Host) -> Finding:
    fine, said = host.engine()
    state = State.OK if fine else State.MISSING
    installed = Path(sys.prefix, "share/wasm-sandboxer/install-wasmedge.sh")
    script = installed if installed.exists() else "packaging/install-wasmedge.sh"
    remedy = f"sh {script} {interpreters.OUR_FOLDER} {sys.executable}"
    return Finding("libwasmedge", state, said, "runs the guests", remedy, required=True)


def _libwasmtime(host: Host) -> Finding:
    fine, said = host.second_engine()
    state = State.OK if fine else State.SHORT
    purpose = "runs components, and modules that libwasmedge refuses or cannot compile"
    where = sysconfig.get_path("purelib")  # a package's environment has no pip of its own
    pip = f"{sys.executable} -m pip install" if find_spec("pip") else f"python3 -m pip install --target {where}"
    return Finding("libwasmtime", state, said, purpose, f"{pip} 'wasmtime>=50'")


def _landlock(host: Host) -> Finding:
    abi = host.landlock_abi()
    lacks = [what for least, what in ((2, "renames between folders"), (3, "truncation")) if abi < least]
    lacks += [what for least, what in ((4, "TCP"), (6, "signals, abstract sockets")) if abi < least]
    state = State.OK if not lacks else State.SHORT if abi else State.MISSING
    purpose = "a guest that breaks out reaches no file but its own"
    if abi:
        found, remedy = f"ABI {abi}", f"a kernel of 6.12 or later (not limited here: {', '.join(lacks)})"
    else:
        found, remedy = "none", "boot with lsm=landlock added to the kernel's command line (Linux 5.13 or later)"
    return Finding("Landlock", state, found, purpose, remedy)


def _empty_root(host: Host) -> Finding:
    fine, said = host.empty_root()
    purpose = "a guest that breaks out finds no name of the host's"
    remedy = "run it as root; in a container, with CAP_SYS_ADMIN and leave to mount proc (Linux 5.8 or later)"
    return Finding("empty root", State.OK if fine else State.MISSING, said, purpose, remedy)


def _seccomp(host: Host) -> Finding:
    purpose = "a guest that breaks out has few system calls left"
    actions = host.read("sys/kernel/seccomp/actions_avail").split()
    if "trap" not in actions:
        remedy = "a kernel with CONFIG_SECCOMP_FILTER"
        return Finding("seccomp", State.MISSING, "not in the kernel", purpose, remedy)
    try:
        host.filters()
    except SeccompMissing as error:
        remedy = "apt-get install libseccomp2, or dnf install libseccomp"
        return Finding("seccomp", State.MISSING, str(error), purpose, remedy)
    return Finding("seccomp", State.OK, f"filters, {LIBRARY}", purpose)


def _module_images(host: Host) -> Finding:
    purpose = "compiled modules start from an image of them loaded (--images; a daemon's log says which)"
    if not (host.proc / "self/pagemap").exists():
        remedy = "a kernel with CONFIG_PROC_PAGE_MONITOR"
        return Finding("images of modules", State.MISSING, "no /proc/PID/pagemap", purpose, remedy)
    return Finding("images of modules", State.OK, "can be made", purpose)


def _cgroups(host: Host) -> Finding:
    purpose = "limits, statistics and pause"
    try:
        hierarchy = cgroups.detect(str(host.cgroup), str(host.proc / "self/mountinfo"))
    except (OSError, ValueError, IndexError) as error:
        return Finding("cgroups", State.MISSING, str(error), purpose, "mount -t cgroup2 none /sys/fs/cgroup")
    version, controllers = hierarchy.version, hierarchy.controllers
    found = f"version {version}: {' '.join(sorted(controllers)) or 'no controllers'}"
    lacking = [name for name in _CONTROLLERS[version] if name not in controllers]
    if not lacking:
        return Finding("cgroups", State.OK, found, purpose)
    if version == 2:
        remedy = f"echo {' '.join(f'+{name}' for name in lacking)} > {host.cgroup}/cgroup.subtree_control"
    elif controllers:
        remedy = "; ".join(f"mount -t cgroup -o {name} none {host.cgroup}/{name}" for name in lacking)
    else:
        remedy = "mount -t cgroup2 none /sys/fs/cgroup"
    return Finding("cgroups", State.SHORT if controllers else State.MISSING, found, purpose, remedy)


def _number(what: str, text: str, purpose: str, remedy: str) -> Finding:
    if not text.lstrip("-").isdigit():
        return Finding(what, State.MISSING, "unknown", purpose, remedy)
    value = int(text)  # -1 is no limit
    return Finding(what, State.SHORT if 0 <= value < _MANY else State.OK, text, purpose, remedy)


def _mounts(host: Host) -> Finding:
    state, found = (State.OK, "mount_setattr") if host.mounts() else (State.MISSING, "no mount_setattr")
    purpose = "mounts that nobody can swap, without devices"
    return Finding("mounts", state, found, purpose, "a kernel of 5.12 or later", required=True)


def _overlay(host: Host) -> Finding:
    there = "overlay" in host.read("filesystems").split()
    state, found = (State.OK, "in the kernel") if there else (State.MISSING, "not loaded")
    return Finding("overlay", state, found, "root file systems of images", "modprobe overlay")


def _events(host: Host) -> Finding:
    there = os.path.exists(host.events)
    found = f"go to {host.events}" if there else f"go nowhere: no {host.events} (another one: --events)"
    return Finding("events", State.OK, found, "containerd hears of OOM kills; iSulad asks for none")


def _namespaces(host: Host) -> Finding:
    there = [name for name in ("mnt", "net") if os.path.lexists(host.proc / "self/ns" / name)]
    state = State.OK if len(there) == 2 else State.MISSING
    purpose = "mounts of the sandboxer's own, pods' networks"
    remedy = "a kernel with CONFIG_NAMESPACES and CONFIG_NET_NS"
    return Finding("namespaces", state, " ".join(there) or "none", purpose, remedy, required=True)


def _capabilities(host: Host) -> Finding:
    purpose = "to mount, to give containers their users, and to give it all up again"
    lines = dict(line.split(":", 1) for line in host.read("self/status").splitlines() if ":" in line)
    held = int(lines.get("CapEff", "0").strip() or "0", 16)
    lacking = [name for name, (number, _) in _CAPABILITIES.items() if not held >> number & 1]
    required = [name for name in list(_CAPABILITIES)[:_REQUIRED_CAPABILITIES] if name in lacking]
    state = State.MISSING if required else State.SHORT if lacking else State.OK
    found = "all that it uses" if not lacking else f"without {' '.join(lacking)}"
    why = ", ".join(f"{name} ({_CAPABILITIES[name][1]})" for name in lacking)
    remedy = f"run it as root; in a unit, CapabilityBoundingSet has to leave {why}"
    return Finding("capabilities", state, found, purpose, remedy, required=True)
