"""Version 2 of control groups, as much of it as the hybrid tree has: no controller but hugetlb."""

from __future__ import annotations

import asyncio

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from supervisor.cgroups import Hierarchy, Resources

from .groups import (
    MIB,
    NAME,
    UNIFIED,
    Join,
    needs_hugetlb,
    needs_root,
    needs_v2,
    opens,
)

pytestmark = needs_root


@needs_v2
def test_v2_without_the_controller(v2: Hierarchy) -> None:
    assert v2.version == 2
    with pytest.raises(FailedPrecondition, match=r"memory\.limit needs the memory controller"):
        v2.create(f"/{NAME}/abc", Resources(memory_limit=MIB))
    assert not (UNIFIED / NAME).exists()


@needs_hugetlb
def test_v2_limits_beside_a_container_without(v2: Hierarchy, join: Join) -> None:
    free = v2.create(f"/{NAME}/pod/free", Resources())
    guest = join(free)
    assert guest.answers(within=10)
    limited = v2.create(f"/{NAME}/pod/limited", Resources(unified={"hugetlb.2MB.max": "4194304"}))
    assert (UNIFIED / NAME / "pod/limited/hugetlb.2MB.max").read_text() == "4194304\n"
    member = join(limited)
    assert member.answers(within=10)
    assert limited.pids() == [member.pid]
    assert limited.usage(1) is None, "nobody counts its memory here"
    with pytest.raises(InvalidArgument, match=r"'x'.*hugetlb\.2MB\.max"):
        v2.create(f"/{NAME}/pod/wrong", Resources(unified={"hugetlb.2MB.max": "x"}))
    assert not (UNIFIED / NAME / "pod/wrong").exists()
    assert not limited.delete()
    for each in (guest, member):
        each.end()
    assert limited.delete()
    assert free.delete()
    assert not (UNIFIED / NAME).exists()


@needs_hugetlb
def test_v2_parent_with_processes(v2: Hierarchy, join: Join) -> None:
    (UNIFIED / NAME).mkdir()
    free = v2.create(f"/{NAME}/free", Resources())
    guest = join(free)
    (UNIFIED / NAME / "cgroup.procs").write_text(str(guest.pid))
    with pytest.raises(FailedPrecondition, match=rf"unified\[hugetlb.*{NAME}.*processes of its own"):
        v2.create(f"/{NAME}/abc", Resources(unified={"hugetlb.2MB.max": "0"}))
    assert not (UNIFIED / NAME / "abc").exists()


@needs_v2
def test_v2_pause_of_a_shared_container_stops_it_alone(v2: Hierarchy, join: Join) -> None:
    group, other = (v2.create(f"/{NAME}/pod/{name}", Resources()) for name in ("abc", "other"))
    assert group.entrances() == other.entrances()
    guest, beside = join(group), join(other)
    group.ensure_own([guest.pid])
    group.freeze()
    assert asyncio.run(group.wait_frozen(True, seconds=10))
    assert beside.answers(within=10)
    assert not guest.answers(within=0.1)
    group.thaw()
    assert guest.heard(within=10)
    guest.end()
    beside.end()
    assert group.delete()
    assert other.delete()
    assert not (UNIFIED / NAME).exists()


@needs_hugetlb
def test_v2_no_device_can_be_opened_in_a_limited_container(v2: Hierarchy, join: Join) -> None:
    """By a program of the kernel's: version 2 has no file for it."""
    limited = v2.create(f"/{NAME}/pod/limited", Resources(unified={"hugetlb.2MB.max": "4194304"}))
    assert join(limited, opens("/dev/zero")).says() == "Operation not permitted"
    free = v2.create(f"/{NAME}/other/free", Resources())
    assert join(free, opens("/dev/zero")).says() == "opened"
