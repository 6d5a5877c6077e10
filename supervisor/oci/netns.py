"""A pod's network namespace: made by the engine, joined by the pod's instances."""

from __future__ import annotations

import errno
import fcntl
import os
import re

from sandbox_api.errors import InvalidArgument

from ..host import errors, linux

_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_OF_PROCESS = re.compile(r"/proc/([1-9][0-9]*)/ns/net")


def process_of(path: str) -> int:
    """The pid by whose folder in /proc a path names a network namespace; 0 where it does not."""
    match = _OF_PROCESS.fullmatch(os.path.normpath(path))
    return int(match[1]) if match else 0


def open_netns(path: str) -> int:
    """A descriptor of the network namespace at ``path``. Raises ``InvalidArgument`` where it is something else."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"network namespace {path!r} is not an absolute path")
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            fd = linux.open_regular(place)  # as namespaces' files are; a device must not be opened
        finally:
            os.close(place)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InvalidArgument(f"network namespace {path} is not a network namespace") from None
        raise errors.for_errno(error, InvalidArgument)(f"network namespace {path}: {error.strerror}") from None
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != linux.CLONE_NEWNET:
        os.close(fd)
        raise InvalidArgument(f"network namespace {path} is not a network namespace")
    return fd
