"""Removing folders that a guest may have filled, or in which something may be mounted that is not ours to remove."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil

from . import linux

_LEVELS = 64


def mounts_below(folder: str) -> list[str]:
    """Mount points below a folder, in the order in which they were mounted."""
    points = [each.mountpoint for each in psutil.disk_partitions(all=True)]
    return [point for point in points if point.startswith(f"{folder}/")]


def remove(folder: str) -> None:
    """Unmount what is mounted below a folder, then remove it. Best effort.

    It stays whole where something stays mounted in it: that may be a folder of the user's.
    """
    folder = os.path.realpath(folder)
    for point in reversed(mounts_below(folder)):  # what is mounted on others comes after them
        try:
            linux.detach(point)
        except OSError:
            break
    if not mounts_below(folder):
        remove_tree(folder)


def remove_tree(folder: str) -> None:
    """Remove a folder with all that is in it, however deep that is. Best effort; follows no link, enters no mount.

    ``shutil.rmtree`` keeps a frame and a descriptor for each level, and a guest makes as many levels as it likes. Here
    what lies ``_LEVELS`` deep is moved up to the top, and removed from there.
    """
    with suppress(OSError):
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            moved: list[str] = []
            _empty(top, top, moved, _LEVELS)
            while moved:
                _remove(moved.pop(), top, top, moved, _LEVELS)
        finally:
            os.close(top)
        os.rmdir(folder)


def _empty(folder: int, top: int, moved: list[str], levels: int) -> None:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        with suppress(OSError):
            if is_folder:
                _remove(name, folder, top, moved, levels)
            else:
                os.unlink(name, dir_fd=folder)


def _remove(name: str, folder: int, top: int, moved: list[str], levels: int) -> None:
    """Remove a folder in a folder, or move it to the top where it is too deep: its name there is in ``moved`` then."""
    with suppress(OSError):
        if not levels:
            place = f".moved-{os.urandom(8).hex()}"
            os.rename(name, place, src_dir_fd=folder, dst_dir_fd=top)
            moved.append(place)
            return
        inside = linux.open_unmounted(folder, name)
        try:
            _empty(inside, top, moved, levels - 1)
        finally:
            os.close(inside)
        os.rmdir(name, dir_fd=folder)
