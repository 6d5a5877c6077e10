"""A pod's sysctls: those of its network namespace, which is all that a pod of WASM instances has of the kernel's."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Mapping

from sandbox_api.errors import FailedPrecondition, InvalidArgument

from ..host import errors, linux

log = logging.getLogger(__name__)

_FIRST_PORT = "net.ipv4.ip_unprivileged_port_start"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
_MOST = 256
_OF_THE_HOST = frozenset({"net/netfilter/nf_hooks_lwtunnel"})
"""Settings that every network namespace shows and that are the whole machine's."""


def check(sysctls: Mapping[str, str], netns: str) -> dict[str, str]:
    """The settings by their paths below /proc/sys. Raises ``InvalidArgument`` where one is not served."""
    if len(sysctls) > _MOST:
        raise InvalidArgument(f"sysctls: {len(sysctls)} of them; {_MOST} is the most")
    paths = {}
    for name, value in sysctls.items():
        path = _path(name)
        if not path.startswith("net/"):
            raise InvalidArgument(
                f"sysctl {name[:200]}: not supported: a pod of WASM instances has its own for net.* only"
            )
        if path in _OF_THE_HOST:
            raise InvalidArgument(f"sysctl {name}: it is the whole machine's, and no pod's")
        if not all(_PART.fullmatch(part) for part in path.split("/")):
            raise InvalidArgument(f"sysctl {name[:200]!r} is no name of a setting")
        if not netns:
            raise InvalidArgument(f"sysctl {name}: the pod has no network namespace of its own to set it in")
        if len(value) > 4096 or "\0" in value:
            raise InvalidArgument(f"sysctl {name}: value {value[:200]!r} is none")
        paths[path] = value
    return paths


def apply(namespace: int, sysctls: Mapping[str, str]) -> None:
    """Set these paths in a network namespace, by its descriptor, and let all its users have ports below 1024.

    Engines do the latter in namespaces of their own sandboxes, too. The host's is never changed. Blocks. Raises a
    ``SandboxerError``.
    """
    if os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/net")):
        if sysctls:
            raise InvalidArgument(f"sysctl {_name(next(iter(sysctls)))}: the pod's network namespace is the host's")
        return
    failure: list[Exception] = []

    def work() -> None:
        try:
            linux.enter_network(namespace)
            _set_first_port(sysctls)
            for path, value in sysctls.items():
                _set(path, value)
        except Exception as error:
            failure.append(error)

    # A thread of its own, which ends there: it is in the pod's network, and no way back is needed.
    thread = threading.Thread(target=work, name="sysctls")
    thread.start()
    thread.join()
    if failure:
        error = failure[0]
        if isinstance(error, OSError):
            raise errors.for_errno(error, FailedPrecondition)(f"sysctls: {error.filename}: {error.strerror}") from None
        raise error


def _set_first_port(sysctls: Mapping[str, str]) -> None:
    if _FIRST_PORT.replace(".", "/") in sysctls:
        return
    try:
        _write(_FIRST_PORT.replace(".", "/"), "0")
    except OSError as error:
        log.warning("%s: %s: guests get no port below 1024", _FIRST_PORT, error.strerror)


def _set(path: str, value: str) -> None:
    try:
        _write(path, value)
    except OSError as error:
        reasons = {
            errno.ENOENT: "a network namespace of a pod has no such setting",
            errno.EINVAL: f"the kernel does not take {value[:200]!r}",
        }
        if error.errno in reasons:
            raise InvalidArgument(f"sysctl {_name(path)}: {reasons[error.errno]}") from None
        raise


def _write(path: str, value: str) -> None:
    fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _path(name: str) -> str:
    """A setting's path: its parts are divided by dots, or by slashes where the first divider is one (sysctl(8))."""
    dot, slash = name.find("."), name.find("/")
    if dot < 0 or 0 <= slash < dot:
        return name
    return name.translate(str.maketrans("./", "/."))


def _name(path: str) -> str:
    return path.translate(str.maketrans("./", "/."))
