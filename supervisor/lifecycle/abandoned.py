"""Clean-up after a lost state: workers, mounts and control groups that are on no record.

The state file was removed, or set aside as damaged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import suppress

from sandbox_api.errors import Internal

from ..cgroups import Hierarchy
from ..host import folders, linux
from ..ipc.forkserver import ForkserverClient

log = logging.getLogger(__name__)

END_SECONDS = 30.0
"""Seconds that killed workers may take to be gone; only one stuck in the kernel takes longer."""
EMPTY_SECONDS = 5.0
"""Seconds that control groups may take to be empty: a reaped process leaves its group a little later."""

_OURS = ("containers", "bundles")
"""Folders below --dir in which containers' mounts and bundles are."""
_LEVELS = 3
"""Of folders below these: a namespace's, a container's, and its root or mounts."""


async def end_all(folder: str, hierarchy: Hierarchy, forkserver: ForkserverClient) -> None:
    """End every worker that was ever forked for this folder, and remove its mounts, control groups and folders.

    Raises ``Internal`` where a worker does not end.
    """
    ended = await _end_workers(hierarchy, forkserver)
    detached = _detach(folder)
    await _remove_groups(hierarchy)
    for name in _OURS:
        _remove_folders(f"{folder}/{name}")
    if ended or detached:
        log.warning("ended %d workers and removed %d mounts that were on no record", ended, detached)


async def _end_workers(hierarchy: Hierarchy, forkserver: ForkserverClient) -> int:
    ended = set()
    deadline = time.monotonic() + END_SECONDS
    while pids := list(forkserver.workers()):
        with suppress(OSError):
            hierarchy.thaw_owned()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended.update(pids)
        if time.monotonic() > deadline:
            raise Internal(f"pid {pids[0]}, which is on no record, does not end after SIGKILL")
        await asyncio.sleep(0.01)
    return len(ended)


def _detach(folder: str) -> int:
    found = [path for name in _OURS for path in folders.mounts_below(f"{folder}/{name}")]
    for path in reversed(found):  # what is mounted on others comes after them
        try:
            linux.detach(path)
        except OSError as error:
            log.error("unmounting %s: %s", path, error.strerror)
    return len(found)


async def _remove_groups(hierarchy: Hierarchy) -> None:
    deadline = time.monotonic() + EMPTY_SECONDS
    try:
        while left := hierarchy.remove_owned():
            if time.monotonic() > deadline:
                log.error("%d control groups are still in use, and stay", left)
                return
            await asyncio.sleep(0.01)
    except OSError as error:
        log.error("removing control groups: %s", error)


def _remove_folders(top: str) -> None:
    """Remove empty folders, and bundles' config.json. Nothing else: a mount that could not be removed stays whole.

    No deeper than our own folders go: what a guest made in a bundle's root is not looked at.
    """
    if folders.mounts_below(top):
        return
    found = level = [top]
    for _ in range(_LEVELS):
        level = [entry.path for path in level for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]
        found = found + level
    for path in reversed(found):
        for name in ("config.json", "config.json.new"):
            with suppress(OSError):
                os.unlink(f"{path}/{name}")
        with suppress(OSError):
            os.rmdir(path)


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
