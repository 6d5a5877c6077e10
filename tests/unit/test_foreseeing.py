"""Create has a module looked at before its start, and does not depend on it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from pathlib import Path

from supervisor.aot.terms import EngineMode

from .parts import NS, Parts


class NoDescriptor:
    """In place of the engines' choice: there is no descriptor left for it."""

    active = True

    def asked(self, annotations: Mapping[str, str]) -> EngineMode:
        return EngineMode.AUTO

    def seen(self, module: int, asked: EngineMode) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_create_without_a_descriptor_for_it_is_done(tmp_path: Path) -> None:
    """The container is there by then: an error would leave it to nobody."""

    async def main() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        parts.containers._aot = NoDescriptor()  # type: ignore[assignment]
        await parts.create("c")
        assert (await parts.tasks.state(NS, "c", "")).id == "c"
        parts.store.close()

    asyncio.run(main())
