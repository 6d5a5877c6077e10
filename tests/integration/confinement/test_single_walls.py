"""Each wall around a worker holds without the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from workers.confinement import landlock

from ...harness.bare_forkserver import (
    NUMBERS,
    BareForkserver,
    neighbour,
    refused,
)


@pytest.mark.skipif(landlock.abi() < 4, reason="Landlock has no TCP rules here")
def test_landlock_alone_stops_tcp_without_a_network(landlocked: BareForkserver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert refused(landlocked.run("connect", "2", "1", port)) == "EACCES"
        assert refused(landlocked.run("bind", "2", "1")) == "EACCES"
        assert refused(landlocked.run("connect", "2", "1", port, network=True)) == "done"


@pytest.mark.skipif(landlock.abi() < 6, reason="Landlock has no scopes here")
def test_landlock_alone_stops_signals_and_abstract_sockets(landlocked: BareForkserver) -> None:
    for pid in (os.getpid(), landlocked.pid):
        assert refused(landlocked.run("signal", str(pid), "0")) == "EPERM"
    with neighbour(landlocked) as other:
        assert refused(landlocked.run("signal", str(other.pid), "9")) == "EPERM"
    assert refused(other.wait()) == "done"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0wasm-sandboxer-test")
        server.listen()
        assert refused(landlocked.run("connect", "1", "1", "@wasm-sandboxer-test")) == "EPERM"


def test_landlock_alone_stops_files_and_exec(landlocked: BareForkserver, folders: list[tuple[Path, bool]]) -> None:
    assert refused(landlocked.run("open", "-", "/etc/shadow", "0", folders=folders)) == "EACCES"
    assert refused(landlocked.run("exec", "/bin/true")) == "EACCES"
    program = folders[0][0] / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    assert refused(landlocked.run("exec", str(program), folders=folders)) == "EACCES"


def test_without_seccomp_a_neighbour_is_still_out_of_reach(landlocked: BareForkserver) -> None:
    with neighbour(landlocked) as other:
        attach = ("16", str(other.pid), "0", "0")  # PTRACE_ATTACH
        assert refused(landlocked.run("call", str(NUMBERS["ptrace"]), *attach)) == "EPERM"
        assert refused(landlocked.run("read_memory", str(other.pid))) == "EPERM"
    assert refused(other.wait()) == "done"


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("mount", ("@none", "@/", "@tmpfs", "0", "@"), "EPERM"),
        ("umount2", ("@/", "0"), "EPERM"),
        ("pivot_root", ("@/", "@/"), "EPERM"),
        ("chroot", ("@/",), "EPERM"),
        ("unshare", (str(0x00020000),), "EPERM"),
        ("setns", ("0", "0"), "EINVAL"),
        ("bpf", ("11", "@", "48"), "EPERM"),
        ("init_module", ("@", "0", "@"), "EPERM"),
        ("perf_event_open", ("@", "-1", "0", "-1", "0"), "EACCES"),
        ("setuid", ("1",), "EPERM"),
        ("sethostname", ("@", "1"), "EPERM"),
        ("reboot", ("0", "0", "0", "0"), "EPERM"),
        ("quotactl", ("0", "@/", "0", "@"), "ENOTBLK"),
        ("mknodat", ("-100", "@/null", str(0o020600), "259"), "EROFS"),
        ("swapon", ("@", "0"), "EPERM"),
        ("clock_settime", ("0", "@"), "EPERM"),
        ("iopl", ("3",), "EPERM"),
    ],
)
def test_without_seccomp_it_has_no_privilege(
    without_seccomp: BareForkserver, name: str, arguments: tuple[str, ...], error: str
) -> None:
    if name not in NUMBERS:
        pytest.skip(f"{name} is no system call of this machine")
    outcome = refused(without_seccomp.run("call", str(NUMBERS[name]), *arguments))
    assert outcome in (error, "ENOSYS")
