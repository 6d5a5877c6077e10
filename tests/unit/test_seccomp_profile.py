"""An OCI spec's seccomp profile, judged by running the filter that it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox_api.errors import InvalidArgument
from supervisor.seccomp.allowed import worker_filters
from supervisor.seccomp.profile import NEEDED, oci_filter

from .bpf import ALLOW, ERRNO, HIGH, I386, KILL, TRAP, numbers, verdict


def profile(*syscalls: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **members: Any) -> bytes:
    return oci_filter({"defaultAction": default, "syscalls": list(syscalls), **members}, "x86_64")


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
    needed = {"names": NEEDED, "action": "SCMP_ACT_ALLOW"}
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
    needed = {"names": NEEDED, "action": "SCMP_ACT_ALLOW"}
    assert verdict(profile(needed, default="SCMP_ACT_ERRNO"), call) == ALLOW
    assert verdict(worker_filters("x86_64").interpreted_with_network, call) == TRAP


def test_architectures_and_flags_of_containerds_default_profile() -> None:
    needed = {"names": NEEDED, "action": "SCMP_ACT_ALLOW", "args": []}
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
        # cut at its NUL it was a call of the worker's last steps
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["seccomp\0"], "action": "SCMP_ACT_ERRNO"}]},
            "without NUL",
        ),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [7]}, "architectures holds something"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "'SCMP_ACT_NOTIFY', not one of"),
        ({"defaultAction": "SCMP_ACT_ERRNO"}, "forbids openat, close, .* the engine runs no module"),
    ],
)
def test_malformed_profiles(members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        oci_filter(members, "x86_64")


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


@pytest.mark.parametrize(("rules", "conditions", "most"), [(65, 1, 64), (3, 2, 2), (1024, 1, 64), (100, 6, 2)])
def test_more_conditions_than_libseccomp_ends_with(rules: int, conditions: int, most: int) -> None:
    """It never came back from 16 rules of three conditions: six such starts held every thread of the daemon."""
    args = [{"index": i, "op": "SCMP_CMP_GE", "value": i} for i in range(conditions)]
    entries = [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": args} for _ in range(rules)]
    with pytest.raises(InvalidArgument, match=f"{rules} rules with conditions for ioctl.*; {most} is the most"):
        profile(*entries)


def test_as_many_conditions_as_may_be() -> None:
    single = [
        {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "op": "SCMP_CMP_EQ", "value": value}]}
        for value in range(64)
    ]
    pair = {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [
        {"index": 0, "op": "SCMP_CMP_EQ", "value": 16}, {"index": 2, "op": "SCMP_CMP_GE", "value": 9}
    ]}  # fmt: skip
    program = profile(*single, pair, pair)
    assert verdict(program, numbers("x86_64")["ioctl"], 0, 63) == ERRNO | 1
    assert verdict(program, numbers("x86_64")["ioctl"], 0, 64) == ALLOW
    assert verdict(program, numbers("x86_64")["socket"], 16, 0, 9) == ERRNO | 1
    assert verdict(program, numbers("x86_64")["socket"], 16, 0, 8) == ALLOW


def test_the_profile_of_podman_and_crio_for_sockets() -> None:
    """Its rules for socket(2): netlink's audit protocol is refused, all else allowed."""

    def rule(action: str, *args: tuple[int, str, int]) -> dict[str, Any]:
        conditions = [{"index": index, "op": f"SCMP_CMP_{op}", "value": value} for index, op, value in args]
        return {"names": ["socket"], "action": f"SCMP_ACT_{action}", "args": conditions}

    program = profile(
        {"names": NEEDED, "action": "SCMP_ACT_ALLOW"},
        {**rule("ERRNO", (0, "EQ", 16), (2, "EQ", 9)), "errnoRet": 22},
        rule("ALLOW", (2, "NE", 9)),
        rule("ALLOW", (0, "NE", 16)),
        rule("ALLOW", (2, "NE", 9)),
        default="SCMP_ACT_ERRNO",
    )
    call = numbers("x86_64")["socket"]
    assert [verdict(program, call, *arguments) for arguments in ((16, 3, 9), (16, 3, 0), (2, 1, 9))] == [
        ERRNO | 22,
        ALLOW,
        ALLOW,
    ]
    fourth = rule("ALLOW", (1, "EQ", 1))
    with pytest.raises(
        InvalidArgument, match=r"5 rules with conditions for socket, 1 of them on several.*; 4 is the most"
    ):
        profile(rule("ERRNO", (0, "EQ", 16), (2, "EQ", 9)), *[fourth] * 4)
