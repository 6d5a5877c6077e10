"""The folders of a running process, for an exec beside it: what the host mounted since is in neither.

The mounts of a container's first process are on no path, and detached ones that nobody holds cannot be copied. But the
folders that it has open lead into them (proc_pid_fd(5)).
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice

from ..host import proc
from .mount_tree import Place

_MOST_OPEN = 256
"""Descriptors that are looked at, from the lowest: an engine opens its folders before the guest opens anything."""
_WALLS = os.ST_NODEV | os.ST_NOSUID | os.ST_NOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_Key = tuple[int, int, int]


def share(places: list[Place], pid: int, start_time: int) -> list[Place]:
    """The same places, in this process's mounts where it has them open; what is replaced is closed.

    ``start_time`` says with the pid which process is meant (``proc.start_time``). A folder that it opened in another's
    place is one that it may use in the same way: device, inode and flags of the mount are those of the place.
    """
    found = _open_folders(pid, start_time)
    shared = []
    for place in places:
        fd = found.pop(_key(place.fd), -1)
        if fd >= 0:
            os.close(place.fd)
            place = replace(place, fd=fd)
        shared.append(place)
    for fd in found.values():
        os.close(fd)
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
            if os.fstatvfs(fd).f_flag & _WALLS != _WALLS or found.setdefault(_key(fd), fd) != fd:
                os.close(fd)
    except OSError:  # it has ended
        pass
    finally:
        os.close(process)
    return found


def _key(fd: int) -> _Key:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, os.fstatvfs(fd).f_flag & os.ST_RDONLY
