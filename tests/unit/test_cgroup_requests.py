"""Control groups: what a spec asks for, and where it leads."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.errors import InvalidArgument
from supervisor.cgroups import Resources, parse_path
from supervisor.cgroups.resources import cpu_weight

MIB = 1 << 20


# Resources


def test_all_members_are_read() -> None:
    parsed = Resources.parse(
        {
            "memory": {"limit": 64, "swap": 96, "reservation": 32, "swappiness": 1},
            "cpu": {"shares": 512, "quota": 5000, "period": 10000, "cpus": "0-1,3", "mems": "0"},
            "pids": {"limit": 7},
            "unified": {"memory.high": "50"},
            "devices": [{"allow": False}],
        }
    )
    assert parsed == Resources(64, 96, 32, 512, 5000, 10000, "0-1,3", "0", 7, {"memory.high": "50"})
    assert parsed.limited


@pytest.mark.parametrize(
    ("resources", "limited"),
    [
        ({}, False),
        ({"memory": None, "cpu": {"cpus": ""}}, False),
        ({"memory": {"limit": -1, "swap": -1, "reservation": 0}}, False),
        ({"cpu": {"shares": 1024, "quota": -1, "period": 100000}, "pids": {"limit": 0}}, False),
        ({"pids": {"limit": -1}}, False),
        ({"cpu": {"shares": 2}}, True),
        ({"cpu": {"mems": "0"}}, True),
        ({"memory": {"reservation": 1}}, True),
        ({"unified": {"io.weight": "10"}}, True),
    ],
)
def test_only_real_limits_need_a_group(resources: dict[str, Any], limited: bool) -> None:
    assert Resources.parse(resources).limited is limited


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"memory": {"limit": True}}, "memory.limit True"),
        ({"memory": {"limit": "64m"}}, "memory.limit '64m'"),
        ({"memory": {"limit": -2}}, "memory.limit -2"),
        ({"memory": {"limit": 1 << 63}}, "memory.limit 9223372036854775808"),
        ({"memory": {"limit": 2.5}}, "memory.limit 2.5"),
        ({"memory": {"limit": 10, "swap": 9}}, "memory.swap 9"),
        ({"memory": {"limit": -1, "swap": 9}}, "memory.swap 9"),
        ({"memory": []}, "memory []"),
        ({"cpu": {"shares": -1}}, "cpu.shares -1"),
        ({"cpu": {"period": -1}}, "cpu.period -1"),
        ({"cpu": {"cpus": "0,"}}, "cpu.cpus '0,'"),
        ({"cpu": {"cpus": "0-\u0661"}}, "not a list as 0-3,7"),
        ({"cpu": {"mems": "x" * 10_000}}, "xx...xx"),
        ({"cpu": {"cpus": "0\n"}}, r"cpu.cpus '0\n'"),
        ({"cpu": {"mems": 0}}, "cpu.mems 0"),
        ({"pids": {"limit": -5}}, "pids.limit -5"),
        ({"unified": {"memory.max": 5}}, "unified[memory.max] 5"),
        ({"unified": {"../memory.max": "5"}}, "unified '../memory.max'"),
        ({"unified": {"cgroup.procs": "1"}}, "unified 'cgroup.procs'"),
    ],
)
def test_nonsense_is_refused_by_name_and_value(resources: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        Resources.parse(resources)
    assert said in str(refusal.value)


def test_no_memory_limit_lifts_that_of_swap_too() -> None:
    assert Resources.parse({"memory": {"limit": -1}}).memory_swap == -1


@pytest.mark.parametrize(("shares", "weight"), [(1, 1), (2, 1), (1024, 100), (262144, 10000), (1 << 40, 10000)])
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_more_shares_are_never_less_weight(some: int, other: int) -> None:
    assert 1 <= cpu_weight(min(some, other)) <= cpu_weight(max(some, other)) <= 10000


# Paths


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/kubepods/pod1/abc", ["kubepods", "pod1", "abc"]),
        ("relative//./abc", ["relative", "abc"]),
        ("/odd:but:plain", ["odd:but:plain"]),
        (
            "kubepods-besteffort-pod1.slice:cri-containerd:abc",
            [
                "kubepods.slice",
                "kubepods-besteffort.slice",
                "kubepods-besteffort-pod1.slice",
                "cri-containerd-abc.scope",
            ],
        ),
        ("-.slice:runc:abc", ["runc-abc.scope"]),
        (":runc:abc", ["system.slice", "runc-abc.scope"]),
        ("user.slice::abc", ["user.slice", "abc.scope"]),
    ],
)
def test_path_forms(path: str, names: list[str]) -> None:
    assert list(parse_path(path)) == names


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/./",
        "/a/../b",
        "..",
        "/a\0b",
        "/a\nb",
        "/\ud800",
        "/" + "x" * 256,
        "a/b.slice:p:n",
        "a.slice:p:../n",
        "a--b.slice:p:n",
        "-a.slice:p:n",
        "a:p:n",
        "a.slice:p:",
        "/a/wasm-shared",
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.cgroupsPath"):
        parse_path(path)


@given(st.text(alphabet=st.sampled_from("ab./:-\0\n.slice"), max_size=30))
def test_no_path_leads_out(path: str) -> None:
    try:
        names = parse_path(path)
    except InvalidArgument:
        return
    assert names
    assert os.path.normpath("/root/" + "/".join(names)) == "/root/" + "/".join(names)
