"""Version 1 of control groups, on the real kernel as it is mounted here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from supervisor.cgroups import Hierarchy, Resources, detect

from .groups import (
    MIB,
    NAME,
    ROOT,
    Join,
    groups,
    leftovers,
    needs_root,
    needs_v1,
    opens,
    value,
)

pytestmark = needs_root


@needs_v1
def test_hierarchy_of_this_host(v1: Hierarchy) -> None:
    assert v1.version == 1
    assert v1.controllers >= {"memory", "cpu", "cpuacct", "cpuset", "pids", "freezer"}


@needs_v1
def test_no_device_can_be_opened_in_a_limited_container(v1: Hierarchy, join: Join) -> None:
    """The second wall: the first is that no mount of a guest's lets devices be used."""
    if "devices" not in v1.controllers:
        pytest.skip("needs the devices controller of version 1")
    group = v1.create(f"/{NAME}/pod/abc", Resources(pids_limit=20))
    assert value("devices", "pod/abc", "devices.list") == ""
    assert join(group, opens("/dev/zero")).says() == "Operation not permitted"
    assert value("devices", "pod", "devices.list") == "a *:* rwm"  # and nobody else's are denied


@needs_v1
def test_a_limited_container(v1: Hierarchy, join: Join) -> None:
    asked = {
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 2, "quota": 20000, "period": 50000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 20},
    }
    group = v1.create(f"/{NAME}/pod/abc", Resources.parse(asked))
    assert value("memory", "pod/abc", "memory.limit_in_bytes") == str(64 * MIB)
    assert value("memory", "pod/abc", "memory.memsw.limit_in_bytes") == str(64 * MIB)
    assert value("memory", "pod/abc", "memory.soft_limit_in_bytes") == str(32 * MIB)
    assert value("cpu", "pod/abc", "cpu.shares") == "2"
    assert value("cpu", "pod/abc", "cpu.cfs_quota_us") == "20000"
    assert value("cpu", "pod/abc", "cpu.cfs_period_us") == "50000"
    assert value("cpuset", "pod/abc", "cpuset.cpus") == "0"
    assert value("pids", "pod/abc", "pids.max") == "20"

    guest = join(group)
    assert guest.answers(within=10)
    assert group.pids() == [guest.pid]
    assert os.sched_getaffinity(guest.pid) == {0}
    usage = group.usage(7)
    assert usage is not None
    assert (usage.at, usage.processes, usage.process_limit, usage.memory_limit) == (7, 1, 20, 64 * MIB)
    assert usage.memory_peak >= usage.memory > usage.anon > MIB
    assert usage.cpu > 1000
    assert usage.page_faults > 0

    assert not group.delete(), "a process is in it"
    guest.end()
    assert group.delete()
    assert group.delete()
    assert not group.exists
    assert leftovers() == []


@needs_v1
def test_quota_throttles(v1: Hierarchy, join: Join) -> None:
    group = v1.create(f"/{NAME}/abc", Resources.parse({"cpu": {"quota": 2000, "period": 20000}}))
    guest = join(group, "while True: pass")
    deadline = time.monotonic() + 10
    while not ((usage := group.usage(1)) and usage.throttled_periods and usage.throttled):
        assert time.monotonic() < deadline, usage
        time.sleep(0.01)
    assert usage.throttle_periods >= usage.throttled_periods
    guest.end()


@needs_v1
def test_pids_limit(v1: Hierarchy, join: Join) -> None:
    group = v1.create(f"/{NAME}/abc", Resources.parse({"pids": {"limit": 1}}))
    guest = join(group, "import os\ntry: os.fork()\nexcept OSError: os.write(1, b'x')\nos.read(0, 1)")
    assert guest.heard(within=10)


@needs_v1
def test_out_of_memory_is_counted_for_the_container_alone(v1: Hierarchy, join: Join) -> None:
    limit = Resources.parse({"memory": {"limit": 24 * MIB, "swap": 24 * MIB}})
    hungry, other = (v1.create(f"/{NAME}/pod/{name}", limit) for name in ("hungry", "other"))
    assert hungry.oom_kills() == 0
    guest = join(hungry, f"bytearray({64 * MIB})")
    assert guest.process.wait(20) == -signal.SIGKILL
    assert hungry.oom_kills() == 1
    assert other.oom_kills() == 0


@needs_v1
def test_containers_without_limits_join_the_parent(v1: Hierarchy, join: Join) -> None:
    no_limits = Resources.parse({"memory": {"limit": -1}, "cpu": {"shares": 1024}})
    one, other = (v1.create(f"/{NAME}/pod/{name}", no_limits) for name in ("one", "other"))
    assert {Path(group).name for group in groups()} == {"pod"}
    guests = [join(one), join(other)]
    assert all(guest.answers(within=10) for guest in guests), "the parents' cpusets let processes in"
    assert (one.own, one.pids(), one.usage(1)) == (False, None, None)
    assert sorted(map(int, value("memory", "pod", "cgroup.procs").split())) == sorted(guest.pid for guest in guests)
    guests[0].end()
    assert one.delete()
    assert other.exists
    guests[1].end()
    assert other.delete()
    assert leftovers() == []


@needs_v1
def test_parents_of_others_stay(v1: Hierarchy) -> None:
    (ROOT / "pids" / NAME).mkdir()
    group = v1.create(f"/{NAME}/pod/abc", Resources(pids_limit=3))
    assert group.delete()
    assert leftovers() == [ROOT / "pids" / NAME]


@needs_v1
def test_two_sandboxers_make_and_remove_the_same_parent(v1: Hierarchy) -> None:
    def live(name: str) -> None:
        own = detect()
        for number in range(300):
            group = own.create(f"/{NAME}/pod/{name}{number}", Resources(pids_limit=3))
            assert group.delete()

    with ThreadPoolExecutor(3) as sandboxers:
        for done in [sandboxers.submit(live, name) for name in "abc"]:
            done.result()


@needs_v1
def test_a_parent_that_another_sandboxer_removed_is_made_again_for_the_start(v1: Hierarchy) -> None:
    no_limits = Resources.parse({})
    other = detect()
    others = other.create(f"/{NAME}/pod/other", no_limits)
    group = v1.create(f"/{NAME}/pod/abc", no_limits)
    assert others.delete()
    assert not group.exists

    def enter() -> bool:
        entrances, changed = group.open_entrances()
        for fd in entrances:
            os.write(fd, str(process.pid).encode())
            os.close(fd)
        return changed

    with subprocess.Popen(["sleep", "1000"]) as process:
        assert enter()
        assert str(process.pid) in value("cpu", "pod", "tasks").split()
        assert not enter()
        process.kill()
    assert detect().attach(group.state).delete()  # by the next supervisor
    assert leftovers() == []


@needs_v1
def test_the_systemd_form_makes_slices(v1: Hierarchy) -> None:
    slices = NAME.replace("-", "_")
    group = v1.create(f"{slices}-pod1.slice:cri-containerd:abc", Resources(pids_limit=3))
    try:
        assert (
            ROOT / "pids" / f"{slices}.slice/{slices}-pod1.slice/cri-containerd-abc.scope/pids.max"
        ).read_text() == "3\n"
    finally:
        assert group.delete()
    assert not list(ROOT.glob(f"*/{slices}*"))


@needs_v1
def test_a_failure_half_way_leaves_nothing(v1: Hierarchy) -> None:
    with pytest.raises(InvalidArgument, match=r"'4000'.*cpuset\.cpus"):
        v1.create(f"/{NAME}/pod/abc", Resources.parse({"memory": {"limit": MIB}, "cpu": {"cpus": "4000"}}))
    assert leftovers() == []


@needs_v1
def test_update_is_all_or_nothing(v1: Hierarchy, join: Join) -> None:
    group = v1.create(f"/{NAME}/abc", Resources.parse({"memory": {"limit": 64 * MIB, "swap": 80 * MIB}}))
    guest = join(group)
    assert guest.answers(within=10)

    def memory() -> tuple[int, int]:
        files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        limit, total = (int(value("memory", "abc", file)) // MIB for file in files)
        return limit, total

    def update(**memory: int) -> None:
        group.update(Resources.parse({"memory": {key: number * MIB for key, number in memory.items()}}), [guest.pid])

    update(limit=128)
    assert memory() == (128, 144), "as much swap as before"
    update(limit=32, swap=40)
    assert memory() == (32, 40)
    update(limit=100, swap=100)
    assert memory() == (100, 100)
    with pytest.raises(InvalidArgument, match="'4000'"):
        group.update(
            Resources.parse({"memory": {"limit": 200 * MIB, "swap": 300 * MIB}, "cpu": {"cpus": "4000"}}), [guest.pid]
        )
    assert memory() == (100, 100)
    assert not (ROOT / "cpuset" / NAME / "abc").exists()
    with pytest.raises(FailedPrecondition, match=r"refuses '4096'.*memory\.limit_in_bytes"):
        group.update(Resources.parse({"memory": {"limit": 4096}, "cpu": {"shares": 77}}), [guest.pid])
    assert memory() == (100, 100)
    assert value("cpu", "abc", "cpu.shares") == "1024"
    group.update(Resources.parse({"memory": {"limit": -1}}), [guest.pid])
    assert memory()[0] == memory()[1] > 1 << 40
    assert guest.answers(within=10)


@needs_v1
def test_a_smaller_period_under_a_limited_parent(v1: Hierarchy) -> None:
    pod = v1.create(f"/{NAME}/pod", Resources.parse({"cpu": {"quota": 50000, "period": 100000}}))
    group = v1.create(f"/{NAME}/pod/abc", Resources.parse({"cpu": {"quota": 50000, "period": 100000}}))
    for quota, period in ((5000, 10000), (50000, 100000)):  # in the wrong order, the ratio would be above the pod's
        group.update(Resources(cpu_quota=quota, cpu_period=period), [])
        assert value("cpu", "pod/abc", "cpu.cfs_quota_us") == str(quota)
        assert value("cpu", "pod/abc", "cpu.cfs_period_us") == str(period)
    assert group.delete()
    assert pod.delete()


@needs_v1
def test_update_moves_a_container_into_a_group_of_its_own(v1: Hierarchy, join: Join) -> None:
    group = v1.create(f"/{NAME}/pod/abc", Resources())
    guest, other = join(group), join(v1.create(f"/{NAME}/pod/other", Resources()))
    group.update(Resources.parse({"cpu": {"cpus": "1"}, "pids": {"limit": 9}}), [guest.pid])
    assert groups() >= {"cpuset/pod/abc", "pids/pod/abc"}
    assert "memory/pod/abc" not in groups()
    assert (os.sched_getaffinity(guest.pid), len(os.sched_getaffinity(other.pid)) > 1) == ({1}, True)
    assert group.pids() == [guest.pid]
    assert group.usage(1) is None
    assert guest.answers(within=10)
    guest.end()
    assert group.delete()
    assert "pids/pod/abc" not in groups()


@needs_v1
def test_pause_and_resume(v1: Hierarchy, join: Join) -> None:
    group = v1.create(f"/{NAME}/abc", Resources(pids_limit=9))
    guest = join(group)
    assert guest.answers(within=10)
    group.freeze()
    assert asyncio.run(group.wait_frozen(True, seconds=10))
    assert not guest.answers(within=0.1)
    assert not asyncio.run(group.wait_frozen(False, seconds=0.01))
    group.thaw()
    assert asyncio.run(group.wait_frozen(False, seconds=10))
    assert guest.heard(within=10)


@needs_v1
def test_pause_of_a_shared_container_stops_it_alone(v1: Hierarchy, join: Join) -> None:
    group, other = (v1.create(f"/{NAME}/pod/{name}", Resources()) for name in ("abc", "other"))
    guest, beside = join(group), join(other)
    with pytest.raises(FailedPrecondition, match="shared"):
        group.freeze()
    group.ensure_own([guest.pid, 1 << 22])
    assert {group for group in groups() if group.endswith("abc")} == {"freezer/pod/abc"}
    group.freeze()
    assert asyncio.run(group.wait_frozen(True, seconds=10))
    assert beside.answers(within=10)
    assert not guest.answers(within=0.1)
    assert group.pids() == [guest.pid]
    group.thaw()
    assert guest.heard(within=10)


@needs_v1
def test_a_restarted_supervisor_goes_on(v1: Hierarchy, join: Join) -> None:
    first = v1.create(f"/{NAME}/pod/abc", Resources(memory_limit=64 * MIB))
    guest = join(first)
    again = detect().attach(first.state)
    assert again.exists
    assert again.entrances() == first.entrances()
    assert again.pids() == [guest.pid]
    usage = again.usage(1)
    assert usage is not None
    assert usage.memory_limit == 64 * MIB
    guest.end()
    assert again.delete()
    assert leftovers() == []
    assert not detect().attach(first.state).exists
    assert detect().attach(first.state).delete()
