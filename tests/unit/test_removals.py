"""What guests left is removed by threads that nothing else waits for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest

from sandbox_api.errors import FailedPrecondition
from sandbox_api.interface import Stdio
from supervisor.cgroups import Cgroup
from supervisor.lifecycle import containers
from supervisor.model.container import Container
from supervisor.model.process import Process

from .parts import Parts

MANY = 64
"""More than either kind of threads has."""


def test_removals_without_end_leave_the_threads_of_starts_alone(tmp_path: Path) -> None:
    ended = threading.Event()

    async def main() -> None:
        parts = Parts(tmp_path)
        removals = [asyncio.ensure_future(parts.containers.aside(lambda _: ended.wait(20), 0)) for _ in range(MANY)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                assert await asyncio.to_thread(lambda: "done") == "done"
        finally:
            ended.set()
        await asyncio.gather(*removals)

    asyncio.run(main())


def test_strangers_in_a_control_group_are_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody has moved a shell of their own into it."""
    monkeypatch.setattr(containers, "LEAVE_SECONDS", 0.05)

    class Busy:
        def delete(self) -> bool:
            return False

        def __str__(self) -> str:
            return "control group /a"

    async def main() -> None:
        parts = Parts(tmp_path)
        container = Container("k8s.io", "a", "s", "", Process(0, "a", "", Stdio()))
        container.cgroup = cast(Cgroup, Busy())
        async with asyncio.timeout(10):
            with pytest.raises(FailedPrecondition, match="control group /a: processes or groups that are not"):
                await parts.containers.remove(container)

    asyncio.run(main())
