"""What guests left is removed by threads that nothing else waits for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

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
