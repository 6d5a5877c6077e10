"""Pods that are removed at their end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition
from supervisor.model.labels import REMOVE_LABEL
from supervisor.services import auto_remove
from supervisor.services.auto_remove import AutoRemove

from .parts import NS, Parts


def test_a_removal_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was full, say; nobody else would ask for it."""
    monkeypatch.setattr(auto_remove, "RETRY_SECONDS", 0.01)

    async def test() -> None:
        parts = Parts(tmp_path)
        await parts.pod()
        await parts.create("c")
        parts.registry.sandboxes[NS, "pod"].labels[REMOVE_LABEL] = "true"
        shutdown, tries = parts.sandboxes.shutdown, []

        async def refuse(namespace: str, sandbox_id: str) -> None:
            tries.append(sandbox_id)
            if len(tries) < 3:
                raise FailedPrecondition("the disk is full")
            await shutdown(namespace, sandbox_id)

        monkeypatch.setattr(parts.sandboxes, "shutdown", refuse)
        removing = AutoRemove(parts.registry, parts.sandboxes)
        removing.look_over()
        container = parts.registry.container(NS, "c")
        removing.ended(container, container.init)
        async with asyncio.timeout(20):
            while (NS, "pod") in parts.registry.sandboxes:
                await asyncio.sleep(0.01)
        assert tries == ["pod"] * 3

    asyncio.run(test())
