from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from supervisor.commands import doctor as module
from supervisor.commands.doctor import Finding, Host, State, doctor, examine, table
from supervisor.seccomp.library import SeccompMissing

ALL_CAPABILITIES = "CapEff:\t000001ffffffffff"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host that has everything."""
    files = {
        "sys/kernel/pid_max": "4194304",
        "sys/kernel/threads-max": "1048576",
        "sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno user_notif trace log allow",
        "filesystems": "nodev\tproc\nnodev\toverlay\n\text4",
        "self/status": f"Name:\tdoctor\n{ALL_CAPABILITIES}\nSeccomp:\t0",
        "self/mountinfo": "",
        "self/pagemap": "",
    }
    for path, text in files.items():
        file = tmp_path / "proc" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    namespaces = tmp_path / "proc/self/ns"
    namespaces.mkdir()
    for name in ("mnt", "net"):
        (namespaces / name).symlink_to(f"{name}:[4026531840]")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (tmp_path / "cgroup/cgroup.subtree_control").write_text("cpuset cpu io memory pids\n")
    return Host(
        proc=tmp_path / "proc",
        cgroup=tmp_path / "cgroup",
        engine=lambda: (True, "0.14.1"),
        second_engine=lambda: (True, "50.0.1"),
        landlock_abi=lambda: 7,
        empty_root=lambda: (True, "in a mount namespace"),
        filters=lambda: None,
        mounts=lambda: True,
        open_files=lambda: 1 << 20,
    )


def finding(host: Host, what: str) -> Finding:
    (found,) = [each for each in examine(host) if each.what == what]
    return found


def put(host: Host, path: str, text: str) -> None:
    (host.proc / path).write_text(text)


def test_a_host_that_has_everything(host: Host) -> None:
    findings = examine(host)
    assert [each.what for each in findings if each.state is not State.OK] == []
    assert "->" not in "".join(table(findings))


def test_no_engine(host: Host) -> None:
    found = finding(replace(host, engine=lambda: (False, "libwasmedge.so.0 does not load")), "libwasmedge")
    assert (found.state, found.required) == (State.MISSING, True)
    assert found.remedy.split()[1:3] == ["packaging/install-wasmedge.sh", str(Path(sys.prefix, "wasmedge"))]


def test_no_second_engine(host: Host) -> None:
    found = finding(replace(host, second_engine=lambda: (False, "not installed")), "libwasmtime")
    assert (found.state, found.found, found.required) == (State.SHORT, "not installed", False)
    assert found.remedy.endswith("-m pip install 'wasmtime>=50'")


@pytest.mark.parametrize(
    ("abi", "state", "hint"),
    [
        (0, State.MISSING, "lsm=landlock"),
        (1, State.SHORT, "renames between folders, truncation, TCP, signals"),
        (3, State.SHORT, "TCP, signals"),
        (5, State.SHORT, "(not limited here: signals, abstract sockets)"),
        (6, State.OK, ""),
    ],
)
def test_landlock(host: Host, abi: int, state: State, hint: str) -> None:
    found = finding(replace(host, landlock_abi=lambda: abi), "Landlock")
    assert found.state is state
    assert hint in found.remedy
    assert not found.required


def test_an_empty_root_that_is_refused(host: Host) -> None:
    assert finding(host, "empty root").state is State.OK
    found = finding(replace(host, empty_root=lambda: (False, "Operation not permitted")), "empty root")
    assert (found.state, found.found) == (State.MISSING, "Operation not permitted")
    assert "CAP_SYS_ADMIN" in found.remedy


def test_seccomp_not_in_the_kernel(host: Host) -> None:
    put(host, "sys/kernel/seccomp/actions_avail", "")
    assert finding(host, "seccomp").state is State.MISSING


def test_seccomp_without_its_library(host: Host) -> None:
    def missing() -> object:
        raise SeccompMissing("libseccomp.so.2 does not load")

    found = finding(replace(host, filters=missing), "seccomp")
    assert (found.state, found.found) == (State.MISSING, "libseccomp.so.2 does not load")
    assert "apt-get install libseccomp2" in found.remedy


def test_cgroups_of_version_2_that_lack_a_controller(host: Host) -> None:
    for name in ("controllers", "subtree_control"):
        (host.cgroup / f"cgroup.{name}").write_text("cpuset cpu io\n")
    found = finding(host, "cgroups")
    assert (found.state, found.found) == (State.SHORT, "version 2: cpu cpuset io")
    assert found.remedy == f"echo +memory +pids > {host.cgroup}/cgroup.subtree_control"


def test_cgroups_of_version_1(host: Host) -> None:
    (host.cgroup / "cgroup.controllers").unlink()
    names = ("memory", "cpu", "cpuset", "pids", "freezer")
    lines = [f"30 23 0:26 / {host.cgroup}/{name} rw - cgroup cgroup rw,{name}" for name in names]
    put(host, "self/mountinfo", "\n".join(lines))
    assert finding(host, "cgroups").state is State.OK
    put(host, "self/mountinfo", "\n".join(lines[1:]))
    found = finding(host, "cgroups")
    assert found.state is State.SHORT
    assert found.remedy == f"mount -t cgroup -o memory none {host.cgroup}/memory"


def test_no_cgroups_at_all(host: Host) -> None:
    (host.cgroup / "cgroup.controllers").unlink()
    found = finding(host, "cgroups")
    assert (found.state, found.remedy) == (State.MISSING, "mount -t cgroup2 none /sys/fs/cgroup")


@pytest.mark.parametrize("path", ["pid_max", "threads-max"])
def test_limits_of_the_kernel(host: Host, path: str) -> None:
    put(host, f"sys/kernel/{path}", "32768\n")
    found = finding(host, f"kernel.{path}")
    assert (found.state, found.found) == (State.SHORT, "32768")
    assert found.remedy.startswith(f"sysctl -w kernel.{path}=")
    (host.proc / "sys/kernel" / path).unlink()
    assert finding(host, f"kernel.{path}").state is State.MISSING


@pytest.mark.parametrize(("limit", "state"), [(1024, State.SHORT), (1 << 20, State.OK), (-1, State.OK)])
def test_open_files(host: Host, limit: int, state: State) -> None:
    assert finding(replace(host, open_files=lambda: limit), "open files").state is state


def test_no_overlay(host: Host) -> None:
    put(host, "filesystems", "nodev\tproc\n\text4\n")
    found = finding(host, "overlay")
    assert (found.state, found.remedy) == (State.MISSING, "modprobe overlay")


def test_no_network_namespaces(host: Host) -> None:
    (host.proc / "self/ns/net").unlink()
    found = finding(host, "namespaces")
    assert (found.state, found.found, found.required) == (State.MISSING, "mnt", True)


@pytest.mark.parametrize(
    ("without", "state"),
    [("CAP_SYS_RESOURCE", State.SHORT), ("CAP_SYS_ADMIN", State.MISSING), ("CAP_KILL", State.MISSING)],
)
def test_capabilities(host: Host, without: str, state: State) -> None:
    number, purpose = module._CAPABILITIES[without]
    put(host, "self/status", f"CapEff:\t{0x1FFFFFFFFFF & ~(1 << number):016x}\n")
    found = finding(host, "capabilities")
    assert (found.state, found.found) == (state, f"without {without}")
    assert purpose in found.remedy


def test_no_capabilities(host: Host) -> None:
    put(host, "self/status", "CapEff:\t0000000000000000\n")
    assert finding(host, "capabilities").state is State.MISSING


# --- the table and the command ---------------------------------------------------------------------------------

SHORT = Finding("kernel.pid_max", State.SHORT, "32768", "processes", "sysctl -w kernel.pid_max=4194304")
FINE = Finding("seccomp", State.OK, "filters", "few system calls", "nothing to mend")
GONE = Finding("libwasmedge", State.MISSING, "not there", "runs the guests", "install.sh", required=True)
OPTIONAL = Finding("Landlock", State.MISSING, "none", "files", "boot with it")


def test_columns_are_aligned_and_remedies_follow() -> None:
    lines = [click.unstyle(line) for line in table([SHORT, FINE, GONE])]
    assert lines == [
        "CHECK           STATE    FOUND      FOR",
        "kernel.pid_max  short    32768      processes",
        "                -> sysctl -w kernel.pid_max=4194304",
        "seccomp         ok       filters    few system calls",
        "libwasmedge     missing  not there  runs the guests",
        "                -> install.sh",
    ]


@pytest.mark.parametrize(("findings", "status"), [([FINE, SHORT], 0), ([OPTIONAL], 0), ([FINE, GONE], 1)])
def test_the_exit_status(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], status: int) -> None:
    monkeypatch.setattr(module, "examine", lambda _: findings)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == status
    assert "\x1b[" not in result.output


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda _: [FINE])
    assert click.style("ok   ", fg="green") in CliRunner().invoke(doctor, color=True).output


def test_on_this_host() -> None:
    result = CliRunner().invoke(doctor)
    for what in (
        "libwasmedge",
        "libwasmtime",
        "Landlock",
        "empty root",
        "seccomp",
        "cgroups",
        "open files",
        "capabilities",
    ):
        assert f"\n{what} " in result.output


def test_a_kernel_that_cannot_change_mounts_by_descriptor_will_not_do(host: Host) -> None:
    found = finding(replace(host, mounts=lambda: False), "mounts")
    assert (found.state, found.required) == (State.MISSING, True)
    assert "5.12" in found.remedy


def test_a_kernel_without_pagemaps_makes_no_images(host: Host) -> None:
    assert finding(host, "images of modules").state is State.OK
    (host.proc / "self/pagemap").unlink()
    assert finding(host, "images of modules").state is State.MISSING
