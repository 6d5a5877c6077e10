"""Mount options by name: what ``mount(8)``, engines and the OCI runtime specification call the kernel's flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..host import linux

SAFE = linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC
"""Attributes of every mount that a guest gets, asked for or not: a device node in it opens no device, and nothing in it
is mapped as machine code (mmap(2))."""

_ATTRIBUTES = {
    "ro": linux.MOUNT_ATTR_RDONLY,
    "nosuid": linux.MOUNT_ATTR_NOSUID,
    "nodev": linux.MOUNT_ATTR_NODEV,
    "noexec": linux.MOUNT_ATTR_NOEXEC,
    "nosymfollow": linux.MOUNT_ATTR_NOSYMFOLLOW,
    "nodiratime": linux.MOUNT_ATTR_NODIRATIME,
    "noatime": linux.MOUNT_ATTR_NOATIME,
    "strictatime": linux.MOUNT_ATTR_STRICTATIME,
}
_FLAGS = {
    "ro": linux.MS_RDONLY,
    "nosuid": linux.MS_NOSUID,
    "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC,
    "nosymfollow": linux.MS_NOSYMFOLLOW,
    "nodiratime": linux.MS_NODIRATIME,
    "noatime": linux.MS_NOATIME,
}
PROPAGATING = frozenset({"slave", "rslave", "shared", "rshared"})
"""Options by which later mounts of the host's would be seen, or the guest's by the host."""
_SAYS_NOTHING = frozenset(
    {"rw", "suid", "dev", "exec", "symfollow", "atime", "diratime", "relatime", "bind", "rbind", "defaults"}
    | {"private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}
)


@dataclass(frozen=True, slots=True)
class BindOptions:
    """A bind mount's options, as ``MOUNT_ATTR_*``."""

    attributes: int = 0
    """Attributes of the mount itself."""
    deep: int = 0
    """Attributes of it and of all mounts below."""
    recursive: bool = True
    """With the mounts below its source."""


def of_bind(options: Iterable[str]) -> BindOptions:
    """Read the options of a bind mount. ``rro`` and its like are the specification's recursive ones (config.md)."""
    names = set(options)
    attributes = deep = 0
    for name, attribute in _ATTRIBUTES.items():
        if name in names:
            attributes |= attribute
        if f"r{name}" in names:
            deep |= attribute
    return BindOptions(attributes, deep, "rbind" in names or "bind" not in names)


def of_filesystem(options: Iterable[str]) -> tuple[int, str]:
    """``MS_*`` and the data for mount(2), where what is mounted is a file system."""
    flags, data = linux.MS_NODEV | linux.MS_NOSUID, []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option not in _SAYS_NOTHING:
            data.append(option)
    return flags, ",".join(data)
