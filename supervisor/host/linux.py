"""Kernel calls of the supervisor's that Python's standard library does not have."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
from contextlib import suppress
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8  # mount(2)
MS_NODIRATIME, MS_NOSYMFOLLOW, MS_NOATIME, MS_PRIVATE = 0x800, 0x100, 0x400, 0x40000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8  # mount_setattr(2)
MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME = 0x10, 0x20, 0x70
MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOSYMFOLLOW = 0x80, 0x200000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8  # umount2(2)
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 0x01, 0x02, 0x04, 0x10  # openat2(2)
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
CLONE_NEWNET = 0x40000000  # setns(2)

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429  # the same on every architecture
_SYS_OPENAT2, _SYS_MOUNT_SETATTR = 437, 442
_OPENAT2_TRIES = 128
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def _syscall(number: int, *arguments: Any, name: str) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), name)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2). Raises ``OSError``."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), os.fsencode(data)
    )
    _check(result, target)


def clone_mount(place: int, recursive: bool) -> int:
    """A descriptor of a detached copy of the mount at ``place``; with the last such descriptor it is gone.

    ``place`` is the copy's root, and nothing leads up out of it. ``recursive``: with the mounts below (open_tree(2)).
    Raises ``OSError``.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    return _syscall(_SYS_OPEN_TREE, ctypes.c_int(place), b"", ctypes.c_uint(flags), name="open_tree")


def set_mount(mount: int, attributes: int, recursive: bool = False, clear: int = 0, propagation: int = 0) -> None:
    """Set ``MOUNT_ATTR_*`` on a mount by its descriptor; those that it has stay (mount_setattr(2)).

    Raises ``OSError``.
    """
    change = _MountAttr(attributes, clear, propagation, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(change))
    _syscall(
        _SYS_MOUNT_SETATTR,
        ctypes.c_int(mount),
        b"",
        ctypes.c_uint(flags),
        ctypes.byref(change),
        size,
        name="mount_setattr",
    )


def attach_mount(mount: int, place: int) -> None:
    """Mount a detached mount on ``place``, both by descriptor (move_mount(2)). Raises ``OSError``."""
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    _syscall(_SYS_MOVE_MOUNT, ctypes.c_int(mount), b"", ctypes.c_int(place), b"", flags, name="move_mount")


def has_mount_setattr() -> bool:
    """Whether mounts can be changed by descriptor: Linux 5.12 or later, and no filter that denies it."""
    try:
        set_mount(-1, 0)
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


@functools.cache
def mounts_on_detached() -> bool:
    """Whether something can be mounted on a detached mount: Linux 6.15 or later. Raises ``OSError``."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    copies: list[int] = []
    try:
        copies += [clone_mount(root, recursive=False)]
        copies += [clone_mount(root, recursive=False)]
        attach_mount(copies[0], copies[1])
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    finally:
        for fd in (root, *copies):
            os.close(fd)
    return True


def detach(target: str) -> None:
    """Unmount ``target`` with all that is mounted below it, now or when it is no longer busy. Raises ``OSError``.

    For a place that only we can change.
    """
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def _openat2(folder: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """It is tried again where the kernel cannot tell that a ``..`` leads nowhere else: something is mounted or renamed
    on the machine at the moment, be it in another place (EAGAIN, openat2(2)). On a busy node that is all the time."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))

    def attempt() -> int:
        return _syscall(_SYS_OPENAT2, ctypes.c_int(folder), os.fsencode(path), ctypes.byref(how), size, name=path)

    for _ in range(_OPENAT2_TRIES - 1):
        with suppress(BlockingIOError):
            return attempt()
    return attempt()


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open ``path`` as if the folder ``root`` were the root: neither ``..`` nor a link leads out (openat2(2)).

    Raises ``OSError``.
    """
    return _openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_resolved(path: str, flags: int = 0) -> int:
    """An ``O_PATH`` descriptor of an absolute path that was resolved before: a link in it by now is refused.

    Raises ``OSError``.
    """
    return _openat2(-100, path, os.O_PATH | flags, 0, RESOLVE_NO_SYMLINKS)  # AT_FDCWD


def open_unmounted(folder: int, name: str) -> int:
    """Open a folder in a folder, for reading, unless it is a link or something is mounted on it. Raises ``OSError``."""
    return _openat2(folder, name, os.O_RDONLY | os.O_DIRECTORY, 0, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS)


def open_regular(place: int) -> int:
    """Open for reading what an ``O_PATH`` descriptor is on, if that is a regular file; nothing else is ever opened.

    Raises ``OSError``: ``EINVAL`` where it is something else.
    """
    if not stat.S_ISREG(os.fstat(place).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def enter_network(namespace: int) -> None:
    """Move this thread into a network namespace, by its descriptor (setns(2)). Raises ``OSError``."""
    _check(_libc.setns(ctypes.c_int(namespace), CLONE_NEWNET), "setns")


def become_subreaper() -> None:
    """Inherit the children of children that die (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "PR_SET_CHILD_SUBREAPER")
