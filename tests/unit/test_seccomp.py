"""Filters are judged by running them: a seccomp program is 32-bit classic BPF over ``struct seccomp_data``."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from sandbox_api.errors import InvalidArgument
from supervisor.oci import seccomp
from workers.confinement.seccomp import Filter
from workers.protocol import OWN_PID

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
ALLOW, TRAP, KILL, ERRNO = 0x7FFF0000, 0x00030000, 0x00000000, 0x00050000
HIGH = 1 << 32


def verdict(program: bytes, call: int, *arguments: int, arch: int = MACHINES["x86_64"]) -> int:
    """What the kernel would do (seccomp(2), bpf filters of linux/filter.h)."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", call, arch, 0, *(value & 0xFFFFFFFFFFFFFFFF for value in padded))
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if operation == 0x20:  # ld [k]
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x54:  # and k
            accumulator &= k
        elif operation == 0x05:  # ja
            at += k
        elif operation in (0x15, 0x25, 0x35):  # jeq, jgt, jge
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[operation]
            at += yes if holds else no
        elif operation == 0x06:  # ret
            return k
        else:
            raise AssertionError(f"instruction {operation:#x}")


def numbers(machine: str) -> dict[str, int]:
    names = seccomp.call_names(machine).decode().split("\n")
    return {name: number for number, name in enumerate(names) if name}


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_on_the_list_is_allowed_and_nothing_else(machine: str) -> None:
    filters = seccomp.build(machine)
    calls = numbers(machine)
    assert len(calls) > 300
    for network, program in ((False, filters.without_network), (True, filters.with_network)):
        by_argument = {"rt_sigaction": (11,), "tgkill": (OWN_PID,), "ioctl": (0, 0x541B), "prctl": (15,)}
        by_argument |= {"socket": (2, 1), "rt_sigprocmask": (1,)}
        allowed = {
            name
            for name, number in calls.items()
            if verdict(program, number, *by_argument.get(name, ()), arch=MACHINES[machine]) == ALLOW
        }
        assert allowed == seccomp.allowed(network) & calls.keys()


def test_the_other_abis_of_a_machine_trap() -> None:
    program = seccomp.build("x86_64").without_network
    assert verdict(program, 3, arch=I386) == TRAP
    assert verdict(program, 0x40000000) == TRAP
    assert verdict(program, -1) == TRAP
    assert verdict(seccomp.build("aarch64").without_network, 63, arch=0x40000028) == TRAP


def test_arguments_are_judged_by_what_the_kernel_looks_at(machine: str) -> None:
    filters = seccomp.build(machine)
    calls = numbers(machine)

    def says(name: str, *arguments: int, network: bool = False) -> int:
        program = filters.with_network if network else filters.without_network
        return verdict(program, calls[name], *arguments, arch=MACHINES[machine])

    for sign in (7, 8, 11, 13):
        assert says("rt_sigaction", sign) == says("rt_sigaction", sign | HIGH) == ALLOW
    for sign in (6, 15, 31, 31 | HIGH, 64):
        assert says("rt_sigaction", sign) == TRAP
    assert says("rt_sigprocmask", 1) == ALLOW
    assert says("rt_sigprocmask", 0) == says("rt_sigprocmask", 2) == ERRNO
    assert says("tgkill", 1) == says("tgkill", -1) == TRAP
    assert says("mmap", 0, 1, 3, 0x22) == says("mmap", 0, 1, 5, 0x02) == ALLOW
    assert says("mmap", 0, 1, 4, 0x22) == says("mmap", 0, 1, 7, 0x02) == TRAP
    assert says("mprotect", 0, 1, 3) == ALLOW
    assert says("mprotect", 0, 1, 4) == says("mprotect", 0, 1, 5 | HIGH) == TRAP
    assert says("socket", 2, 1) == TRAP
    for family in (2, 10):
        assert says("socket", family, 1, network=True) == ALLOW
        assert says("socket", family | HIGH, 2 | 0o2000000, network=True) == ALLOW
        assert says("socket", family, 3, network=True) == TRAP
    assert says("socket", 1, 1, network=True) == ERRNO | errno.EAFNOSUPPORT
    assert says("socket", 16, 3, network=True) == ERRNO | errno.EAFNOSUPPORT
    assert says("socket", 17, 3, network=True) == says("socket", 38, 5, network=True) == TRAP


def test_a_worker_puts_its_pid_in() -> None:
    for program in (seccomp.build().without_network, seccomp.build().with_network):
        assert program.count(OWN_PID.to_bytes(4, "little")) == 1
    with pytest.raises(ValueError, match="no seccomp filter"):
        Filter(b"12345")


def test_another_machine() -> None:
    with pytest.raises(seccomp.SeccompMissing, match="riscv64"):
        seccomp.build("riscv64")


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "LIBRARY", "libnowhere.so.2")
    with pytest.raises(seccomp.SeccompMissing, match="install the package"):
        seccomp.build()


def test_names() -> None:
    calls = numbers("x86_64")
    assert (calls["read"], calls["socket"], calls["execve"], calls["landlock_restrict_self"]) == (0, 41, 59, 446)
    assert seccomp.call_name(10**6) == "1000000"


# --- profiles --------------------------------------------------------------------------------------------------


def profile(*syscalls: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **members: Any) -> bytes:
    return seccomp.from_oci({"defaultAction": default, "syscalls": list(syscalls), **members}, "x86_64")


def test_names_and_actions() -> None:
    program = profile(
        {"names": ["mkdirat", "nosuchcall"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["unlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["linkat"], "action": "SCMP_ACT_KILL"},
        {"names": ["symlinkat"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["gettid"], "action": "SCMP_ACT_TRAP"},
        {"names": ["getuid"], "action": "SCMP_ACT_LOG"},
    )
    calls = numbers("x86_64")
    verdicts = [
        verdict(program, calls[name])
        for name in "mkdirat unlinkat linkat symlinkat gettid getuid read".split()  # noqa: SIM905
    ]
    assert verdicts == [ERRNO | 1, ERRNO | 38, KILL, 0x80000000, TRAP, 0x7FFC0000, ALLOW]


def test_the_default_action_and_its_errno() -> None:
    needed = {"names": seccomp.NEEDED.split(), "action": "SCMP_ACT_ALLOW"}
    assert verdict(profile(needed, default="SCMP_ACT_ERRNO", defaultErrnoRet=38), 41) == ERRNO | 38
    assert verdict(profile(needed, default="SCMP_ACT_ERRNO"), 41) == ERRNO | 1
    assert verdict(profile(needed, default="SCMP_ACT_KILL"), 41) == KILL


def test_conditions() -> None:
    calls = numbers("x86_64")

    def says(args: list[dict[str, Any]], *arguments: int) -> bool:
        program = profile({"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": args})
        return verdict(program, calls["lseek"], *arguments) != ALLOW

    def arg(index: int, op: str, value: int, second: int = 0) -> dict[str, Any]:
        return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}

    big = 5 + HIGH
    for op, held, not_held in (
        ("EQ", big, 5),
        ("NE", 5, big),
        ("LT", 5, big),
        ("LE", big, big + 1),
        ("GT", big + 1, big),
        ("GE", big, 5),
    ):
        assert says([arg(1, op, big)], 0, held)
        assert not says([arg(1, op, big)], 0, not_held)
    assert says([arg(2, "MASKED_EQ", 0xF0, 0x30)], 0, 0, 0x13F)
    assert not says([arg(2, "MASKED_EQ", 0xF0, 0x30)], 0, 0, 0x24F)
    both = [arg(0, "EQ", 1), arg(1, "EQ", 2)]
    assert says(both, 1, 2)
    assert not says(both, 1, 3)
    either = [arg(0, "EQ", 1), arg(0, "EQ", 2)]  # on one argument, conditions are alternatives (as in runc)
    assert says(either, 1)
    assert says(either, 2)
    assert not says(either, 3)


def test_seccomp_itself_stays_allowed_for_the_filter_that_comes_after() -> None:
    call = numbers("x86_64")["seccomp"]
    assert verdict(profile({"names": ["seccomp"], "action": "SCMP_ACT_ERRNO"}), call) == ALLOW
    needed = {"names": seccomp.NEEDED.split(), "action": "SCMP_ACT_ALLOW"}
    assert verdict(profile(needed, default="SCMP_ACT_ERRNO"), call) == ALLOW
    assert verdict(seccomp.build("x86_64").with_network, call) == TRAP


def test_architectures_and_flags_of_containerds_default_profile() -> None:
    needed = {"names": seccomp.NEEDED.split(), "action": "SCMP_ACT_ALLOW", "args": []}
    program = profile(
        needed,
        default="SCMP_ACT_ERRNO",
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        flags=["SECCOMP_FILTER_FLAG_LOG"],
    )
    assert verdict(program, 0) == ALLOW
    assert verdict(program, 3, arch=I386) != ALLOW


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "defaultAction is None"),
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "'SCMP_ACT_MAYBE', not one of"),
        ({"defaultAction": 1}, "defaultAction is int, not str"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}, "5000, not 0 to 4095"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "syscalls is dict, not list"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["read"]}, "not an object"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}, "without names"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"]}]}, "action is None"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [1], "action": "SCMP_ACT_LOG"}]}, "not a string"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [7]}, "architectures holds something"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "'SCMP_ACT_NOTIFY', not one of"),
        ({"defaultAction": "SCMP_ACT_ERRNO"}, "forbids openat, close, .* the engine runs no module"),
    ],
)
def test_malformed_profiles(members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        seccomp.from_oci(members, "x86_64")


@pytest.mark.parametrize(
    "arg",
    [
        {"index": 6, "op": "SCMP_CMP_EQ", "value": 0},
        {"index": -1, "op": "SCMP_CMP_EQ", "value": 0},
        {"op": "SCMP_CMP_EQ", "value": 0},
        {"index": 0, "op": "EQ", "value": 0},
        {"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64},
        {"index": 0, "op": "SCMP_CMP_EQ", "value": -1},
        {"index": 0, "op": "SCMP_CMP_EQ", "value": "0"},
    ],
)
def test_malformed_conditions(arg: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.seccomp\.syscalls\.args"):
        profile({"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [arg]})
