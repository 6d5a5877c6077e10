"""A container's maker and name, from annotations that anybody may write."""

from __future__ import annotations

import pytest

from sandbox_api.interface import Stdio
from supervisor.model.container import Container
from supervisor.model.process import Process
from supervisor.services.makers import origin

COUNT = "io.kubernetes.container.restartCount"


@pytest.mark.parametrize(
    ("count", "restarts"),
    [("3", 3), ("", 0), ("-1", 0), ("x", 0), (7, 0), (None, 0), ("\u00b2", 0), ("9" * 5000, 0)],
)
def test_restarts_are_a_number_or_none(count: object, restarts: int) -> None:
    """5,000 digits were an error for everybody's ps: int() has a bound."""
    container = Container("default", "c1", "s1", "/bundle", Process(1, "c1", "", Stdio()))
    assert origin(container, None, {"annotations": {COUNT: count}}).restarts == restarts


def test_what_is_remembered_of_a_container_is_short() -> None:
    container = Container("default", "c1", "s1", "/bundle", Process(1, "c1", "", Stdio()))
    config = {"annotations": {"io.kubernetes.container.name": "n" * 500_000}, "process": {"args": ["a" * 500_000]}}
    found = origin(container, None, config)
    assert (len(found.name), len(found.command)) == (4096, 4096)
