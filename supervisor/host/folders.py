"""Folders in which something may be mounted that is not ours to remove."""

from __future__ import annotations

import os
import shutil

import psutil

from . import linux


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
        shutil.rmtree(folder, ignore_errors=True)
