"""The state file: what is written is read again, also after a kill; and other files are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.errors import Internal
from sandbox_api.interface import Exit, Mount, NewContainer, NewSandbox, Stdio
from supervisor.model.container import Container
from supervisor.model.prepared import Prepared
from supervisor.model.process import Process, ProcessState
from supervisor.model.sandbox import Sandbox, SandboxState
from supervisor.oci.rootfs import MountPlan
from supervisor.oci.spec import Bind, Tmpfs
from supervisor.state.store import Recorded, Store

from .disk import disk

STDIO = Stdio("/in", "/out é", "file:///err", terminal=True)
PLAN = MountPlan(
    "/bundle/rootfs",
    root_readonly=True,
    rootfs=(Mount("overlay", "overlay", "", ("lowerdir=/a", "upperdir=/b")),),
    binds=(Bind("/etc/hosts", "/hosts é", readonly=True, deep_attributes=8, recursive=False),),
    inner=("/etc/hosts",),
    tmpfs=(Tmpfs("/tmp", readonly=True, data="size=1m"),),
    folder="/dir/containers/ns/c",
    home="/dir/mounting",
    masked=("/proc/kcore",),
    readonly=("/proc/sys", "/é"),
)
RECORDED = Recorded(b'{"a": "\xc3\xa9"}\0', PLAN)
PREPARED = Prepared("pod", NewContainer("c2", b"{}", STDIO, PLAN.rootfs), "/dir/bundles/ns/c2")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


def sandbox(name: str = "pod") -> Sandbox:
    return Sandbox("ns", name, "/run/netns/x", {"app": "é"}, created_at=5)


def container(name: str = "c") -> Container:
    return Container("ns", name, "pod", "/bundle", Process(0, name, "", STDIO))


def fill(store: Store) -> None:
    """A sandbox, a container in it that has ended, an exec that runs, and a preparation."""
    pod = sandbox()
    store.add_sandbox(pod, NewSandbox("pod", config=b"\xff", annotations={"a": "b"}))
    pod.state, pod.labels, pod.exited_at = SandboxState.NOTREADY, {"app": "new"}, 9
    store.update_sandbox(pod)
    made = container()
    store.add_container(made, RECORDED, "group")
    store.update_container(made)
    exec_ = Process(0, "c/e", "e", STDIO)
    store.add_process(made, exec_, b"[]")
    made.init.state, made.init.pid, made.init.exit = ProcessState.STOPPED, 70, Exit(137, 1 << 60)
    exec_.state, exec_.pid, exec_.start_time, exec_.pumped = ProcessState.RUNNING, 71, 1 << 40, True
    store.update_processes([made.init, exec_])
    store.add_prepared("ns", PREPARED)


def process_members(process: Process) -> tuple[Any, ...]:
    return (process.name, process.state, process.pid, process.start_time, process.exit, process.pumped, process.stdio)


def check(store: Store) -> None:
    """All of ``fill`` is there, whatever else is."""
    (pod,) = (each for each in store.sandboxes() if each.id == "pod")
    assert (pod.namespace, pod.id, pod.netns, pod.labels) == ("ns", "pod", "/run/netns/x", {"app": "new"})
    assert (pod.state, pod.created_at, pod.exited_at) == (SandboxState.NOTREADY, 5, 9)
    ((made, cgroup, _),) = (each for each in store.containers() if each[0].namespace == "ns")
    assert (made.namespace, made.id, made.sandbox_id, made.bundle, cgroup) == ("ns", "c", "pod", "/bundle", "")
    assert process_members(made.init) == ("c", ProcessState.STOPPED, 70, 0, Exit(137, 1 << 60), False, STDIO)
    assert made.execs is not None
    assert process_members(made.execs["e"]) == ("c/e", ProcessState.RUNNING, 71, 1 << 40, None, True, STDIO)
    assert store.recorded(made) == RECORDED
    assert store.exec_spec(made.execs["e"]) == b"[]"
    assert store.prepared("ns", "c2", "") == PREPARED
    assert store.all_prepared("ns", "pod") == [PREPARED]


def in_a_process_that_is_killed(work: Callable[[], None]) -> None:
    """Do it in a child, which then ends without any cleaning up."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0) == (child, 0)


def test_everything_is_read_as_it_was_written(path: str) -> None:
    store = Store(path)
    fill(store)
    check(store)
    store.close()
    store = Store(path)
    check(store)
    store.close()


def test_everything_survives_the_writer_s_death(path: str) -> None:
    kept = []

    def work() -> None:
        kept.append(Store(path))
        fill(kept[0])

    in_a_process_that_is_killed(work)
    store = Store(path)
    check(store)
    store.close()


def test_removed_records_are_gone(path: str) -> None:
    store = Store(path)
    fill(store)
    ((made, _, _),) = store.containers()
    assert made.execs is not None
    store.remove_process(made.execs["e"])
    ((again, _, _),) = store.containers()
    assert again.execs is None
    store.remove_container(made)
    assert list(store.containers()) == []
    store.remove_prepared("ns", PREPARED)
    assert store.prepared("ns", "c2", "") is None
    store.remove_sandbox(sandbox())
    assert list(store.sandboxes()) == []
    fill(store)  # every id is free again
    store.close()


def test_instance_numbers_are_never_given_twice(path: str) -> None:
    """Not even those of what was deleted, and not in another life."""
    given: list[int] = []
    for _ in range(2):
        store = Store(path)
        for _ in range(2):
            made = container()
            store.add_container(made, RECORDED, "group")
            exec_ = Process(0, "c/e", "e", STDIO)
            store.add_process(made, exec_, b"")
            given += [made.init.instance, exec_.instance]
            store.remove_container(made)
        store.close()
    assert given == sorted(set(given))
    assert all(number > 0 for number in given)


def test_namespaces_are_apart(path: str) -> None:
    store = Store(path)
    fill(store)
    other = Container("other", "c", "pod", "/elsewhere", Process(0, "c", "", Stdio()))
    store.add_container(other, Recorded(b"other", PLAN), "group")
    store.remove_container(container())
    ((made, _, _),) = store.containers()
    assert (made.namespace, made.bundle, store.recorded(made).config) == ("other", "/elsewhere", b"other")
    assert store.prepared("other", "c2", "") is None
    store.close()


def test_an_id_that_is_taken_changes_nothing(path: str) -> None:
    store = Store(path)
    fill(store)
    with pytest.raises(Internal):
        store.add_container(container(), Recorded(b"", PLAN), "group")
    check(store)
    store.add_container(container("c3"), RECORDED, "group")
    store.remove_container(container("c3"))
    store.close()
    store = Store(path)
    check(store)
    store.close()


def test_a_full_disk_is_an_error_and_no_more(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as small:
        store = Store(f"{small.folder}/state.db")
        fill(store)
        ((made, _, _),) = store.containers()
        big = Recorded(bytes(1 << 20), PLAN)
        with small.full():
            for _ in range(2):
                with pytest.raises(Internal, match=r"state\.db: .*full"):
                    store.add_container(container("c3"), big, "group")
            check(store)
        store.add_container(container("c3"), RECORDED, "group")
        store.update_processes([made.init])
        store.remove_container(container("c3"))
        check(store)
        store.close()
