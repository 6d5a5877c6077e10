"""A service in place of the supervisor's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Recorder:
    """Takes every call, keeps its arguments, and gives the answer of its name."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            self.calls.append((name, *args))
            return self._answers.get(name)

        return call
