"""The folders of a running process, for an exec beside it: what the host mounted since is in neither.

The mounts of a container's first process are on no path, and detached ones that nobody holds cannot be copied. But the
folders that it has open lead into them (proc_pid_fd(5)).
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from ..host import linux, proc
from . import mount_tree
from .mount_tree import Place

if TYPE_CHECKING:
    from .rootfs import MountPlan

_MOST_OPEN = 256
"""Descriptors that are looked at, from the lowest: an engine opens its folders before the guest opens anything."""
_WALLS = os.ST_NODEV | os.ST_NOSUID | os.ST_NOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_Key = tuple[int, int, int]


def places(plan: MountPlan, pid: int, start_time: int) -> list[Place]:
    """The folders that a process gets beside this one: those that this has open, and for others copies of their own.

    ``start_time`` says with the pid which process is meant (``proc.start_time``). Raises ``FailedPrecondition``.
    """
    found = _open_folders(pid, start_time)
    try:
        wanted = _wanted(plan)
        keys = {key for _, key in wanted}
        if wanted and len(keys) == len(wanted) and keys <= found.keys():
            return [replace(place, fd=found.pop(key)) for place, key in wanted]
        return _share(mount_tree.build(plan), found)
    finally:
        for fd in found.values():
            os.close(fd)


def _wanted(plan: MountPlan) -> list[tuple[Place, _Key]]:
    """The places of a plan without their descriptors, and how each is known, by their sources alone.

    Nothing where a source is gone, or where a folder is mounted into the root, in which it may be covered.
    """
    wanted = []
    given = [(Place("/", -1, plan.root_readonly), plan.root)]
    given += [(Place(bind.destination, -1, bind.readonly), bind.source) for bind in plan.binds]
    given += [(Place(each.destination, -1, each.readonly), plan.tmpfs_path(i)) for i, each in enumerate(plan.tmpfs)]
    deep = {bind.destination for bind in plan.binds if bind.deep_attributes & linux.MOUNT_ATTR_RDONLY}
    for place, source in given:
        try:
            fd = linux.open_resolved(source)
        except OSError:
            return []
        try:
            device, inode, readonly = _key(fd)
            folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        except OSError:  # its file system's server is gone
            return []
        finally:
            os.close(fd)
        if folder and place.path in plan.inner:
            return []
        if folder:
            readonly = os.ST_RDONLY if place.readonly or place.path in deep else readonly
            wanted.append((place, (device, inode, readonly)))
    return wanted


def _share(places: list[Place], found: dict[_Key, int]) -> list[Place]:
    """The same places, by what was found of them, which is taken; what is replaced is closed.

    A folder that the process opened in another's place is one that it may use in the same way: device, inode and flags
    of the mount are those of the place.
    """
    shared = []
    for place in places:
        try:
            fd = found.pop(_key(place.fd), -1)
        except OSError:  # its file system's server is gone
            fd = -1
        if fd >= 0:
            os.close(place.fd)
            place = replace(place, fd=fd)
        shared.append(place)
    return shared


def _open_folders(pid: int, start_time: int) -> dict[_Key, int]:
    found: dict[_Key, int] = {}
    try:
        process = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        if proc.start_time(pid) != start_time:  # from here on the descriptor is that process's, or nobody's
            return found
        with os.scandir(process) as entries:
            names = [entry.name for entry in islice(entries, _MOST_OPEN)]
        for name in names:
            try:
                fd = os.open(name, _FOLDER, dir_fd=process)
            except OSError:
                continue
            try:
                wanted = os.fstatvfs(fd).f_flag & _WALLS == _WALLS and found.setdefault(_key(fd), fd) == fd
            except OSError:  # its file system's server is gone
                wanted = False
            if not wanted:
                os.close(fd)
    except OSError:  # it has ended
        pass
    finally:
        os.close(process)
    return found


def _key(fd: int) -> _Key:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, os.fstatvfs(fd).f_flag & os.ST_RDONLY
