"""Place of a container's log, where its annotations have the runtime write it.

iSulad's CRI gives no FIFOs, and writes these into the spec (isulad, src/daemon/common/constants.h and
src/daemon/modules/spec/log_gather.c name them): ``log.console.driver``, ``.file``, ``.filesize``, ``.filerotate``,
``.tag`` and ``.facility``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox_api.errors import InvalidArgument
from workers import relay_protocol

from ..host import errors

_SIZE = re.compile(r"([0-9]{1,18}) ?([KMGT]?)(i?B)?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MOST_FILES = 100
_MOST_BYTES = 1 << 60
"""A larger bound is taken for this: the logger's numbers have 64 bits."""
_LEAST_BYTES = 64 << 10
"""A smaller bound is taken for this: all containers share the logger, and each rotation renames all files."""
_FACILITIES = {
    name: number
    for number, name in enumerate(
        ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
    )
} | {f"local{number}": 16 + number for number in range(8)}  # RFC 5424


@dataclass(frozen=True, slots=True)
class JsonLog:
    """A JSON file, rotated when it has ``most_bytes`` (0 is no bound), of which there are ``most_files``."""

    path: str
    most_bytes: int = 0
    most_files: int = 1


@dataclass(frozen=True, slots=True)
class SyslogLog:
    """The host's syslog. ``facility`` is its number."""

    tag: str
    facility: int


Log = JsonLog | SyslogLog


def parse(annotations: Mapping[str, str], container_id: str) -> Log | None:
    """Read a container's annotations; None where they ask for no log. Raises ``InvalidArgument``."""
    driver = annotations.get("log.console.driver", "json-file")
    path = annotations.get("log.console.file", "")
    if driver == "syslog":
        facility = annotations.get("log.console.facility", "daemon")
        if facility not in _FACILITIES:
            raise InvalidArgument(f"log.console.facility {facility!r} is none of syslog's")
        return SyslogLog(annotations.get("log.console.tag", "") or container_id[:12], _FACILITIES[facility])
    if driver == "none" or path in ("", "none"):  # "none" is iSulad's word for disable-log
        return None
    if driver != "json-file":
        raise InvalidArgument(f"log.console.driver {driver!r} is not supported (supported: json-file, syslog, none)")
    if not path.startswith("/") or "\0" in path or os.path.basename(path) in ("", ".", ".."):
        raise InvalidArgument(f"log.console.file {path!r} is not the absolute path of a file")
    files = annotations.get("log.console.filerotate", "1")
    if not re.fullmatch("[0-9]{1,9}", files) or not 1 <= int(files) <= _MOST_FILES:
        raise InvalidArgument(f"log.console.filerotate {files!r} is not a number from 1 to {_MOST_FILES}")
    most_bytes = _size(annotations.get("log.console.filesize", "0"))
    return JsonLog(path, max(most_bytes, _LEAST_BYTES) if most_bytes else 0, int(files))


def open_folder(log: Log, container_id: str) -> int:
    """Open the folder of a container's log; of syslog, /dev/null. Raises ``InvalidArgument``.

    Annotations may come from a pod's author. So the folder has to be the container's: root's alone to write to, and
    named by its id, or below one that is, as all of iSulad's are.
    """
    if isinstance(log, SyslogLog):
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    folder = os.path.dirname(log.path)
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.for_errno(error, InvalidArgument)(f"log.console.file: {folder}: {error.strerror}") from None
    found, real = os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}")
    if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        if container_id in Path(real).parts:
            return fd
        problem = "is not a folder of this container's: its path has to have the container's id"
    else:
        problem = "is not root's alone to write to"
    os.close(fd)
    raise InvalidArgument(f"log.console.file: {real} {problem}")


def encode(log: Log) -> tuple[list[int], bytes]:
    """The numbers and the name with which the logger is told of it."""
    if isinstance(log, SyslogLog):
        return [relay_protocol.SYSLOG, log.facility], log.tag.encode()
    return [relay_protocol.JSON_FILE, log.most_bytes, log.most_files], os.fsencode(os.path.basename(log.path))


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"log.console.filesize {text!r} is not a size such as 1MB")
    return min(int(match[1]) * _UNITS[match[2].upper()], _MOST_BYTES)
