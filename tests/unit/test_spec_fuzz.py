"""No config.json does harm: it is a Spec that a worker can be started with, or InvalidArgument."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_api.errors import InvalidArgument
from supervisor.oci import bundle, rootfs
from supervisor.oci.spec import Spec, parse
from workers.start_request import StartRequest

from .specs import full, start_request, text

CORPUS = Path(__file__).parent / "corpus"

# Lone surrogates too: JSON can spell them (RFC 8259, section 8.2), and UTF-8 cannot.
STRINGS = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
    st.sampled_from(("", "/", "//", "/a", "a=b", "network", "bind", "tmpfs", "ro", "RLIMIT_CPU", "\0", "/\0", "..")),
)
NUMBERS = st.one_of(st.integers(), st.integers(-(1 << 70), 1 << 70), st.integers(-(1 << 32), 1 << 32))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), STRINGS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(("path", "type", "soft", "hard", "uid", "args", "source", "options")), inner, max_size=3
        ),
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, the whole among them."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def like(value: object) -> st.SearchStrategy[Any]:
    return STRINGS if isinstance(value, str) else NUMBERS


def value_at(path: tuple[Any, ...]) -> Any:
    return functools.reduce(operator.getitem, path, full())


def changed(changes: list[tuple[tuple[Any, ...], Any]]) -> bytes:
    """The full config with other values at some places, as far as those are still there."""
    whole: list[Any] = [full()]
    for path, value in changes:
        keys = (0, *path)
        at: Any = whole
        try:
            for key in keys[:-1]:
                at = at[key]
            at[keys[-1]] = value
        except (KeyError, IndexError, TypeError):
            pass
    return text(whole[0])


PLACES = st.sampled_from(list(places(full())))
CONFIGS = st.lists(st.tuples(PLACES, JSON), min_size=1, max_size=3).map(changed)
LEAVES = st.sampled_from([path for path in places(full()) if isinstance(value_at(path), (str, int))])
LIKELY_CONFIGS = st.lists(
    LEAVES.flatmap(lambda path: st.tuples(st.just(path), like(value_at(path)))), min_size=1, max_size=2
).map(changed)
"""With values of the kind that was there: most are accepted."""


def parsed(data: bytes) -> Spec | None:
    try:
        return parse(data)
    except InvalidArgument:
        return None


def request(spec: Spec) -> bytes:
    return start_request(spec.process).encode()


def test_the_config_without_changes_is_good() -> None:
    spec = parsed(changed([]))
    assert spec is not None
    assert StartRequest.decode(request(spec)).uid == 1000


@given(st.one_of(CONFIGS, LIKELY_CONFIGS))
@settings(max_examples=1000)
def test_any_values_at_any_places(data: bytes) -> None:
    assert isinstance(parsed(data), Spec | None)


@given(st.one_of(st.binary(), JSON.map(text)))
def test_any_bytes(data: bytes) -> None:
    assert parsed(data) is None


@given(LIKELY_CONFIGS)
@settings(max_examples=1000)
def test_accepted_specs_can_be_sent_to_a_worker(data: bytes) -> None:
    spec = parsed(data)
    if spec is not None:
        request(spec)


@given(LIKELY_CONFIGS)
@settings(max_examples=1000)
def test_accepted_specs_can_be_planned(data: bytes) -> None:
    spec = parsed(data)
    if spec is not None:
        root = bundle.root("/nowhere", spec.root)
        try:
            rootfs.plan(spec, "/usr" if root == "/nowhere/rootfs" else root, (), "/nowhere", "")
        except InvalidArgument:
            pass


@pytest.mark.parametrize("path", sorted(CORPUS.glob("config-*.json")), ids=lambda path: path.stem)
def test_specs_that_once_did_harm_are_refused(path: Path) -> None:
    with pytest.raises(InvalidArgument):
        parse(path.read_bytes())
