"""Those who wait for the end of a process or a sandbox, and go before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sandbox_api.interface import Exit, Stdio
from supervisor.model.process import Process
from supervisor.model.sandbox import Sandbox


@pytest.mark.parametrize("kind", ["process", "sandbox"])
def test_nothing_is_kept_of_those_that_went(kind: str) -> None:
    """A client may ask again and again, within a time of its own, for as long as a container lives."""

    async def main() -> None:
        process, sandbox = Process(1, "c", "", Stdio()), Sandbox("ns", "pod")
        ended: Exit | None = None

        async def of_sandbox() -> Exit:
            return await sandbox.wait()

        wait: Callable[[], Coroutine[Any, Any, Exit]] = process.wait if kind == "process" else of_sandbox
        stays = [asyncio.create_task(wait()) for _ in range(5)]
        for _ in range(100):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await wait()
        kept = (process if kind == "process" else sandbox)._waiters
        assert kept is not None
        assert len(kept) < 20
        process.mark_exited(ended := Exit(0, 7))
        sandbox.end(7)
        assert await asyncio.gather(*stays) == [ended] * 5

    asyncio.run(main())
