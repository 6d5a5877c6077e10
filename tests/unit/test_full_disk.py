"""A full disk: a call that cannot be recorded fails and changes nothing, and works once there is room."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.errors import Internal, OutOfDisk
from sandbox_api.interface import NewContainer, NewSandbox
from supervisor.lifecycle import containers
from supervisor.oci.rootfs import MountPlan
from supervisor.state import retry

from .disk import disk
from .parts import NS, Parts

CALLS: dict[str, Callable[[Parts], Awaitable[object]]] = {
    "create a sandbox": lambda parts: parts.sandboxes.create(NS, NewSandbox("other")),
    "start a sandbox": lambda parts: parts.sandboxes.start(NS, "new"),
    "stop a sandbox": lambda parts: parts.sandboxes.stop(NS, "new", 0),
    "shut a sandbox down": lambda parts: parts.sandboxes.shutdown(NS, "new"),
    "label a sandbox": lambda parts: parts.sandboxes.update(NS, "pod", {"a": "b"}, None),
    "prepare a container": lambda parts: parts.sandboxes.prepare(NS, "pod", prepared(parts)),
    "create a container": lambda parts: parts.create("other"),
    "kill what never ran": lambda parts: parts.tasks.kill(NS, "c", "", 15, False),
    "delete a container": lambda parts: parts.tasks.delete(NS, "c", ""),
}


def prepared(parts: Parts) -> NewContainer:
    return NewContainer("other", (Path(parts.bundle("other")) / "config.json").read_bytes())


async def seen(parts: Parts) -> dict[str, Any]:
    """Everything there is, as a client sees it."""
    sandboxes = [await parts.sandboxes.status(NS, name, True) for _, name in parts.registry.sandboxes]
    tasks = [await parts.tasks.state(NS, name, "") for _, name in parts.registry.containers]
    return {info.id: info for info in [*sandboxes, *tasks]}


@pytest.mark.parametrize("name", CALLS)
def test_unrecorded_changes_do_not_happen(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        with disk(tmp_path / "disk") as small:
            parts = Parts(tmp_path, state=small.folder)
            await parts.pod()
            await parts.create("c")
            await parts.sandboxes.create(NS, NewSandbox("new"))
            waiting = asyncio.create_task(parts.sandboxes.wait(NS, "new"))
            before = await seen(parts)
            with small.full():
                for _ in range(2):
                    with pytest.raises(Internal, match="full"):
                        await CALLS[name](parts)
                assert await seen(parts) == before
                assert not waiting.done()
            await CALLS[name](parts)
            if name == "stop a sandbox":
                assert (await waiting).status == 0
            waiting.cancel()
            parts.store.close()

    asyncio.run(asyncio.wait_for(test(), 20))


def bundles(parts: Parts) -> list[str]:
    return [path.name for path in (parts.folder / "bundles" / NS).iterdir()]


def test_a_purge_that_cannot_be_recorded_leaves_the_bundle_where_it_is(tmp_path: Path) -> None:
    """And the one that can leaves nothing."""

    async def test() -> None:
        with disk(tmp_path / "disk") as small:
            parts = Parts(tmp_path, state=small.folder)
            await parts.pod()
            await parts.sandboxes.prepare(NS, "pod", prepared(parts))
            with small.full():
                for _ in range(2):
                    with pytest.raises(Internal, match="full"):
                        await parts.sandboxes.purge(NS, "pod", "other", "")
                assert bundles(parts) == ["other"]
            await parts.sandboxes.purge(NS, "pod", "other", "")
            assert bundles(parts) == []
            parts.store.close()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_bundle_that_found_no_room_is_made_when_the_list_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record had found room, and could not be removed again."""

    async def test() -> None:
        with disk(tmp_path / "disk") as small:
            parts = Parts(tmp_path, state=small.folder)
            await parts.pod()
            listed = [prepared(parts)]
            with ExitStack() as until_later, monkeypatch.context() as patch:

                def no_room(path: str, mode: int) -> None:
                    until_later.enter_context(small.full())
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

                patch.setattr(os, "makedirs", no_room)
                with pytest.raises(Internal, match="full"):
                    await parts.sandboxes.update(NS, "pod", None, listed)
            await parts.sandboxes.update(NS, "pod", None, listed)
            assert (tmp_path / "bundles" / NS / "other" / "config.json").exists()
            parts.store.close()

    asyncio.run(asyncio.wait_for(test(), 20))


@pytest.mark.parametrize("again", [True, False])
def test_a_container_that_found_no_room_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Its record had found room, and could not be removed again: it is, as soon as there is some."""
    monkeypatch.setattr(retry, "RETRY_SECONDS", 60 if again else 0.01)

    async def test() -> None:
        with disk(tmp_path / "disk") as small:
            parts = Parts(tmp_path, state=small.folder)
            await parts.pod()
            with ExitStack() as until_later, monkeypatch.context() as patch:

                def no_room(plan: MountPlan) -> None:
                    until_later.enter_context(small.full())
                    raise OutOfDisk("no room for its mounts")

                patch.setattr(containers.rootfs, "mount", no_room)
                with pytest.raises(OutOfDisk, match="no room for its mounts"):
                    await parts.create("other")
                assert len(parts.store.containers()) == 1
            if again:
                await parts.create("other")
            else:
                while parts.store.containers():
                    await asyncio.sleep(0.01)
            parts.store.close()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_sandbox_that_could_not_be_stopped_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        with disk(tmp_path / "disk") as small:
            parts = Parts(tmp_path, state=small.folder)
            await parts.pod()
            with small.full(), pytest.raises(Internal):
                await parts.sandboxes.stop(NS, "pod", 0)
            await parts.create("c")
            parts.store.close()

    asyncio.run(asyncio.wait_for(test(), 20))
