"""A dialect: for each method, a function from encoded request to encoded response."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from ..interface import SandboxApi


@dataclass(frozen=True, slots=True)
class Host:
    """The services that a dialect's methods call."""

    sandboxes: SandboxApi
    cgroup_version: int


Method = Callable[[Host, str, bytes], Coroutine[Any, Any, bytes]]
"""Host, the caller's namespace and the encoded request in; the encoded response out."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect's name and its methods by their names on the wire."""

    name: str
    methods: Mapping[str, Method]
