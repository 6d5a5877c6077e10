"""Confined guests lack nothing that is theirs: every kind of call, stream and trap, and the engine's own profile."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.seccomp.profile import NEEDED, oci_filter

from ...harness import wasmtime_products
from ...harness.aot import product
from ...harness.bare_forkserver import (
    NUMBERS,
    SIGSYS,
    BareForkserver,
    WasmtimeForkserver,
    confined,
    forbidden,
    refused,
)
from ...harness.container import Pod
from ...harness.guests import guest

CONFORMANCE = ("files", "clocks", "streams", "memory")


@pytest.fixture(scope="module")
def guests() -> Iterator[BareForkserver]:
    """Around real guests."""
    made = confined(broken_out=False)
    yield made
    made.close()


def module(name: str, kind: str) -> dict[str, Any]:
    """A guest, interpreted or compiled by either engine."""
    wasm = guest(f"conformance_{name}")
    if kind == "wasmtime":
        return {"module": wasmtime_products.product(wasm), **WasmtimeForkserver.fields}
    return {"module": wasm if kind == "interpreted" else product(wasm)}


KINDS = pytest.mark.parametrize("kind", ["interpreted", "compiled", "wasmtime"])
OF_WASMEDGE = pytest.mark.parametrize("kind", ["interpreted", "compiled"])  # the only engine with these functions


@KINDS
@pytest.mark.parametrize("uid", [0, 65534])
@pytest.mark.parametrize("name", CONFORMANCE)
def test_guests_lack_nothing_in_it(guests: BareForkserver, tmp_path: Path, name: str, kind: str, uid: int) -> None:
    root, readonly = tmp_path / "root", tmp_path / "ro"
    root.mkdir()
    os.chown(root, uid, uid)
    readonly.mkdir()
    (readonly / "fixed").write_text("fixed")
    outcome = guests.run("x", "ro", **module(name, kind), folders=[(root, False), (readonly, True)], uid=uid, gid=uid)
    assert (outcome.report, outcome.status) == ("R", 0), outcome


def test_an_overlay_is_a_root_like_any_other(guests: BareForkserver, tmp_path: Path) -> None:
    layers = [tmp_path / name for name in ("lower", "upper", "work", "ro", "root")]
    for layer in layers:
        layer.mkdir()
    lower, upper, work, readonly, root = layers
    (readonly / "fixed").write_text("fixed")
    (lower / "below").mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)
    try:
        folders = [(root, False), (readonly, True)]
        outcome = guests.run("x", "ro", module=guest("conformance_files"), folders=folders)
    finally:
        subprocess.run(["umount", str(root)], check=True)
    assert (outcome.report, outcome.status) == ("R", 0), outcome


@KINDS
@pytest.mark.parametrize("stdin", ["pipe", "file", "terminal", "socket", "closed pipe"])
def test_streams_of_every_kind_work_in_it(guests: BareForkserver, tmp_path: Path, kind: str, stdin: str) -> None:
    ends = {"pipe": os.pipe, "closed pipe": os.pipe, "terminal": os.openpty, "socket": _socketpair}.get(stdin)
    if ends is None:
        (tmp_path / "file").write_text("line\n")
        read, write = os.open(tmp_path / "file", os.O_RDONLY), -1
    elif stdin == "terminal":
        write, read = ends()
        os.write(write, b"line\n\x04")
    else:
        read, write = ends()
        if stdin != "closed pipe":
            os.write(write, b"line\n")
        os.close(write)
    outcome = guests.run("x", **module("streams", kind), stdin=read)
    os.close(read)
    assert (outcome.report, outcome.status) == ("R", 0), outcome
    assert outcome.stdout == ("\nend\n" if stdin == "closed pipe" else "line\n\nend\n")


def _socketpair() -> tuple[int, int]:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


@KINDS
@pytest.mark.parametrize(
    ("trap", "status"),
    [("unreachable", 134), ("divide", 134), ("bounds", 134), ("stack", 134), ("raise", 134), ("none", 7)],
)
def test_traps_end_as_ever(guests: BareForkserver, kind: str, trap: str, status: int) -> None:
    if (kind, trap) == ("wasmtime", "raise"):
        status = 58  # ENOTSUP: it has no proc_raise
    outcome = guests.run("x", trap, **module("traps", kind))
    assert (outcome.report, outcome.status) == ("R", status), outcome


@OF_WASMEDGE
def test_a_guest_without_a_network_that_asks_for_a_socket(guests: BareForkserver, kind: str) -> None:
    """The forbidden call comes from the middle of native code."""
    outcome = guests.run("x", **module("sockets", kind))
    forbidden(outcome, "socket")


@OF_WASMEDGE
def test_a_guest_with_a_network(guests: BareForkserver, kind: str) -> None:
    outcome = guests.run("x", **module("sockets", kind), network=True)
    assert (outcome.report, outcome.status) == ("R", 0), outcome


# --- an engine's own profile -----------------------------------------------------------------------------------


def test_a_profile_narrows_the_workers_filter(forkserver: BareForkserver, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    profile = oci_filter(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["renameat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOTSUP}],
        }
    )
    outcome = forkserver.run("rename", "0", "file", "0", "other", folders=[(tmp_path, False)], seccomp=[profile])
    assert refused(outcome) in ("EOPNOTSUPP", "ENOTSUP")


def test_a_profile_does_not_widen_it(forkserver: BareForkserver) -> None:
    profile = oci_filter({"defaultAction": "SCMP_ACT_ALLOW"})
    forbidden(forkserver.run("exec", "/bin/true", seccomp=[profile]), "execve")
    forbidden(forkserver.run("call", str(NUMBERS["seccomp"]), "1", "0", "@", seccomp=[profile]), "seccomp")
    refusing = {"names": ["execve"], "action": "SCMP_ACT_ERRNO"}
    profile = oci_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refusing]})
    forbidden(forkserver.run("exec", "/bin/true", seccomp=[profile]), "execve")


@OF_WASMEDGE
def test_guests_run_with_a_profile_that_denies_by_default(guests: BareForkserver, tmp_path: Path, kind: str) -> None:
    profile = oci_filter(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}],
        }
    )
    outcome = guests.run("x", "none", **module("traps", kind), seccomp=[profile])
    assert (outcome.report, outcome.status) == ("R", 7), outcome


# --- through the daemon ----------------------------------------------------------------------------------------


def test_the_line_the_status_and_the_log(pod: Pod) -> None:
    """A container whose network namespace has no path has no network at all."""
    container = pod.with_wasm("conformance_sockets").linux(namespaces=[{"type": "network"}]).build().start()
    assert container.wait() == SIGSYS
    assert container.stderr() == f"wasm-sandboxer: forbidden system call socket ({NUMBERS['socket']})\n"
    assert f"{container.id}: forbidden system call socket" in pod.daemon.log_text()


def test_hosts_network_where_no_namespace_is_asked_for(pod: Pod) -> None:
    assert pod.with_wasm("conformance_sockets").build().start().wait() == 0


def test_linux_seccomp_of_a_spec(pod: Pod) -> None:
    rule = {"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EROFS}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    container = pod.with_wasm("conformance_files").linux(seccomp=profile).build().start()
    assert container.wait() == 1
    assert container.stderr() == "mkdir: Read-only file system\n"


def test_a_profile_that_the_engine_cannot_live_with(pod: Pod) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    with pytest.raises(Exception, match=r"linux\.seccomp forbids openat, .* without which the engine runs no module"):
        pod.with_wasm("hello").linux(seccomp=profile).build().start()
