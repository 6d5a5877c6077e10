"""The files by which a pod knows its own name and resolves others: /etc/hostname, /etc/hosts, /etc/resolv.conf.

They are made from CRI's configuration of the pod, in a folder of ours that is laid out like /. Guests see them where
their engine mounts none of its own, and it is the root of the C library's resolver in workers with a network.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import shutil

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.interface import PodConfig

from ..host import errors

SHOWN = ("hostname", "hosts", "resolv.conf")
"""Names in /etc that guests see."""

RESOLVED_PATHS = frozenset({"/etc/hosts", "/etc/resolv.conf"})
"""Files that the resolver reads as the guest sees them: the engine's, where that mounts its own."""

_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_NSSWITCH = "hosts: files dns\n"  # nsswitch.conf(5)
_WORD = re.compile(r"[!-~]+")
_HOSTNAME = re.compile(r"[A-Za-z0-9._-]*")
_MOST = 1024  # servers, domains or options


def place(folder: str, namespace: str, sandbox_id: str) -> str:
    """Folder of a sandbox's files, below the daemon's ``folder``."""
    return f"{folder}/pods/{namespace}/{sandbox_id}"


def make(path: str, config: PodConfig) -> None:
    """Write a pod's files into the folder ``path``. Raises a ``SandboxerError``, and leaves nothing behind then."""
    texts = {
        "hostname": f"{_hostname(config)}\n",
        "hosts": _LOCAL,
        "resolv.conf": _resolv_conf(config),
        "nsswitch.conf": _NSSWITCH,
    }
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        for folder in (path, f"{path}/etc"):  # what an earlier supervisor left is not of a sandbox on record
            _make_folder(folder)
        for name, text in texts.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(f"{path}/etc/{name}", flags, 0o644), "w") as file:
                file.write(text)
    except OSError as error:
        remove(path)
        raise errors.for_errno(error, FailedPrecondition)(f"{error.filename or path}: {error.strerror}") from None


def remove(path: str) -> None:
    """Remove a pod's files. Done where there are none."""
    shutil.rmtree(path, ignore_errors=True)


def sweep(folder: str, kept: set[tuple[str, str]]) -> None:
    """Remove the files of all sandboxes below the daemon's ``folder`` but those ``kept`` (namespace and id)."""
    home = f"{folder}/pods"
    for namespace in _names(home):
        for sandbox_id in _names(f"{home}/{namespace}"):
            if (namespace, sandbox_id) not in kept:
                remove(f"{home}/{namespace}/{sandbox_id}")


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def _hostname(config: PodConfig) -> str:
    """The pod's name; where it shares the host's network and has none, the host's, as CRI asks for."""
    if not _HOSTNAME.fullmatch(config.hostname):
        raise InvalidArgument(f"hostname {config.hostname[:200]!r} has characters that a host name cannot have")
    return config.hostname or (os.uname().nodename if config.host_network else "")


def _resolv_conf(config: PodConfig) -> str:
    """A resolv.conf(5). Raises ``InvalidArgument`` where a value would be read as something else."""
    for what, words in (("server", config.servers), ("search", config.searches), ("option", config.options)):
        if len(words) > _MOST:
            raise InvalidArgument(f"dns_config has {len(words)} values of one kind; {_MOST} is the most")
        for word in words:
            if not _WORD.fullmatch(word):
                raise InvalidArgument(f"dns_config: {what} {word[:200]!r} is not one word of ASCII")
    for server in config.servers:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise InvalidArgument(f"dns_config: server {server[:200]!r} is not an IP address") from None
    lines = [f"search {' '.join(config.searches)}\n"] if config.searches else []
    lines += [f"nameserver {server}\n" for server in config.servers]
    lines += [f"options {' '.join(config.options)}\n"] if config.options else []
    return "".join(lines)
