"""Identity of a module file: tells it from all others, and from itself before a change, without reading it."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from typing import NamedTuple

SETTLED_NS = 100_000_000
"""A file changed less than this before it is read may change again within the same tick of the file system's clock."""

# statx(2), linux/stat.h
_AT_EMPTY_PATH = 0x1000
_BASIC_STATS, _MNT_ID_UNIQUE = 0x7FF, 0x4000
_STATX = struct.Struct("<I28xQQ48xqI4xqI4x8xIIQ")  # mask, ino, size, ctime, mtime, dev_major, dev_minor, mnt_id
_PLAIN = frozenset(
    {
        0xEF53,  # ext2 to ext4
        0x58465342,  # XFS
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0xF2F52010,  # F2FS
        0x2FC12FC1,  # ZFS
    }
)
"""File systems whose change times the kernel alone sets. An image's (EROFS, squashfs) are what its maker wrote."""

_libc = ctypes.CDLL(None, use_errno=True)
_buffer = ctypes.create_string_buffer(256)  # the event loop's thread alone calls
_EMPTY, _MASK = ctypes.c_char_p(b""), ctypes.c_uint(_BASIC_STATS | _MNT_ID_UNIQUE)


class Identity(NamedTuple):
    """A file's content as long as all of this stays."""

    mount: int
    """Its mount, by the number that is never given twice; 0 on a file system where that is not needed."""
    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    def settled(self) -> bool:
        """Whether a change from now on would show."""
        return self.ctime + SETTLED_NS < time.time_ns()


class Identifier:
    """Identifies opened files."""

    def __init__(self) -> None:
        self._plain: dict[int, bool] = {}

    def of(self, fd: int) -> Identity | None:
        """The identity of an opened file; None where the kernel's word is not enough and it must be read each time.

        Device numbers are used again after an unmount, also those of the overlay that a container's root file
        system is. On ext4 and its like the time of change tells both apart. Elsewhere the mount's own number
        has to (from Linux 6.8).
        """
        if _libc.statx(fd, _EMPTY, _AT_EMPTY_PATH, _MASK, _buffer) < 0:
            return None
        mask, inode, size, ctime, ctime_ns, mtime, mtime_ns, major, minor, mount = _STATX.unpack_from(_buffer)
        unique = mount if mask & _MNT_ID_UNIQUE else 0
        if self._is_plain(fd, unique):
            unique = 0
        elif not unique:
            return None
        return Identity(
            unique, os.makedev(major, minor), inode, size, mtime * 10**9 + mtime_ns, ctime * 10**9 + ctime_ns
        )

    def _is_plain(self, fd: int, mount: int) -> bool:
        plain = self._plain.get(mount) if mount else None
        if plain is None:
            plain = _file_system(fd) in _PLAIN
            if len(self._plain) > 4096:
                self._plain.clear()
            if mount:
                self._plain[mount] = plain
        return plain


def _file_system(fd: int) -> int:
    """The type of the file system (statfs(2)); 0 where it does not say."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) < 0:
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF
