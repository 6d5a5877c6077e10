"""Ids: which are taken, what they find, and that each namespace has its own."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.errors import AlreadyExists, InvalidArgument, NotFound
from sandbox_api.interface import Stdio
from supervisor.model.container import Container
from supervisor.model.process import Process
from supervisor.model.registry import Registry, check_id
from supervisor.model.sandbox import Sandbox

GOOD = ["a", "0", "A-b_c.d", "k8s.io", "a" * 128, "0.", "a..b"]
BAD = ["", ".", "..", "-a", "_a", ".a", "a/b", "/", "a\0", "a\n", "a b", "é", "٣", "a" * 129, "a:b", "a%2fb"]


@pytest.mark.parametrize("value", GOOD)
def test_ids_that_are_taken(value: str) -> None:
    assert check_id("sandbox", value) == value


@pytest.mark.parametrize("value", BAD)
def test_ids_that_are_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^sandbox '"):
        check_id("sandbox", value)


@given(st.text() | st.from_regex(r"[A-Za-z0-9._-]{1,130}", fullmatch=True))
def test_an_id_is_one_part_of_a_path(value: str) -> None:
    try:
        check_id("container", value)
    except InvalidArgument:
        return
    assert os.path.normpath(f"/dir/{value}") == f"/dir/{value}"
    assert os.path.dirname(f"/dir/{value}") == "/dir"
    assert len(os.fsencode(value)) <= 255


def test_a_hostile_id_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidArgument) as raised:
        check_id("container", "/" * 1_000_000)
    assert len(str(raised.value)) < 1000


@pytest.fixture
def registry() -> Registry:
    """A sandbox, a container in it, and an exec in that."""
    made = Registry()
    sandbox = made.sandboxes["ns", "pod"] = Sandbox("ns", "pod")
    container = Container("ns", "c", "pod", "/bundle", Process(1, "c", "", Stdio()))
    made.add(sandbox, container)
    made.add_exec(container, Process(2, "c/e", "e", Stdio()))
    return made


def test_registered_objects_are_found(registry: Registry) -> None:
    container = registry.container("ns", "c")
    assert registry.sandbox("ns", "pod").containers == {"c": container}
    assert registry.process("ns", "c", "") == (container, container.init)
    assert registry.process("ns", "c", "e")[1].instance == 2
    assert {number: process.name for number, (_, process) in registry.processes.items()} == {1: "c", 2: "c/e"}


def test_not_found_names_the_object(registry: Registry) -> None:
    with pytest.raises(NotFound, match="sandbox 'c'"):
        registry.sandbox("ns", "c")
    with pytest.raises(NotFound, match="container 'pod'"):
        registry.container("ns", "pod")
    with pytest.raises(NotFound, match=r"container c: .*'f'"):
        registry.process("ns", "c", "f")


def test_another_namespace_has_ids_of_its_own(registry: Registry) -> None:
    with pytest.raises(NotFound, match="in namespace other"):
        registry.sandbox("other", "pod")
    with pytest.raises(NotFound, match="in namespace other"):
        registry.container("other", "c")
    registry.new_sandbox("other", "pod")
    registry.new_container("other", "c")


def test_an_id_is_given_once(registry: Registry) -> None:
    with pytest.raises(AlreadyExists, match="sandbox pod"):
        registry.new_sandbox("ns", "pod")
    with pytest.raises(AlreadyExists, match="container c"):
        registry.new_container("ns", "c")
    registry.new_container("ns", "pod")


@pytest.mark.parametrize(("namespace", "value"), [("..", "a"), ("ns", "../a"), ("", "a"), ("ns", "")])
def test_new_objects_need_valid_ids(registry: Registry, namespace: str, value: str) -> None:
    for new in (registry.new_sandbox, registry.new_container):
        with pytest.raises(InvalidArgument):
            new(namespace, value)


def test_removal_takes_what_belongs_to_it(registry: Registry) -> None:
    container, process = registry.process("ns", "c", "e")
    registry.remove_exec(container, process)
    with pytest.raises(NotFound):
        registry.process("ns", "c", "e")
    registry.remove(container)
    with pytest.raises(NotFound):
        registry.container("ns", "c")
    assert registry.sandbox("ns", "pod").containers == {}
    assert registry.processes == {}
    registry.new_container("ns", "c")
