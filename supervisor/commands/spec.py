"""OCI specs of what ``run`` and ``exec`` ask for: the options have the meaning that docker gave them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..aot.terms import ENGINE_ANNOTATION
from ..model.labels import IMAGE_ANNOTATION

CPU_PERIOD = 100_000
"""Microseconds of which ``--cpus`` is a part (cfs_period_us)."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process to run."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: tuple[int, int] = (0, 0)
    terminal: bool = False

    def document(self) -> dict[str, Any]:
        """Describe it as an OCI process."""
        uid, gid = self.user
        return {
            "terminal": self.terminal,
            "args": list(self.args),
            "env": list(self.env),
            "cwd": self.cwd,
            "user": {"uid": uid, "gid": gid},
        }


@dataclass(frozen=True, slots=True)
class Volume:
    """A file or folder of the host's in the guest."""

    host: str
    guest: str
    readonly: bool = False

    @classmethod
    def parse(cls, text: str) -> Volume:
        """Read ``HOST:GUEST[:ro]``. Raises ``UsageError``."""
        host, colon, guest = text.partition(":")
        guest, _, options = guest.partition(":")
        if not (host and colon and guest.startswith("/")) or options not in ("", "ro", "rw"):
            raise click.UsageError(f"-v {text}: write HOST:GUEST or HOST:GUEST:ro, with GUEST an absolute path")
        if not os.path.exists(host):
            raise click.UsageError(f"-v {text}: {host} is not there: make it first")
        return cls(os.path.realpath(host), guest, options == "ro")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A container as the command line describes it, without what the image says."""

    name: str
    image: str
    process: Process
    volumes: tuple[Volume, ...] = ()
    memory: int = 0
    """Bytes; 0 is no limit."""
    cpus: float = 0.0
    network: str = "none"
    engine: str = ""
    """The daemon's choice where it is empty."""

    def document(self, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Describe it as an OCI spec, with its root file system in ``rootfs`` of the bundle."""
        resources: dict[str, Any] = {}
        if self.memory:
            resources["memory"] = {"limit": self.memory}
        if self.cpus:
            resources["cpu"] = {"quota": max(1000, round(self.cpus * CPU_PERIOD)), "period": CPU_PERIOD}
        namespaces = [] if self.network == "host" else [{"type": "network"}]
        if self.network not in ("host", "none"):
            namespaces = [{"type": "network", "path": self.network}]
        return {
            "ociVersion": "1.2.0",
            "process": self.process.document(),
            "root": {"path": "rootfs"},
            "mounts": [
                {
                    "destination": each.guest,
                    "type": "bind",
                    "source": each.host,
                    "options": ["rbind", "ro"] if each.readonly else ["rbind"],
                }
                for each in self.volumes
            ],
            "linux": {"resources": resources, "namespaces": namespaces},
            "annotations": {
                "io.kubernetes.cri.sandbox-id": self.name,
                IMAGE_ANNOTATION: self.image,
                **({ENGINE_ANNOTATION: self.engine} if self.engine else {}),
                **(annotations or {}),
            },
        }


def environment(pairs: Sequence[str], files: Iterable[Path]) -> tuple[str, ...]:
    """The variables of ``--env-file`` and ``-e``, the later before the earlier; ``NAME`` alone is the caller's own.

    Raises ``ClickException``.
    """
    found: dict[str, str] = {}
    lines: list[str] = []
    for path in files:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"--env-file {path}: {getattr(error, 'strerror', None) or error}") from None
        lines += [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    for pair in [*lines, *pairs]:
        name, equals, value = pair.partition("=")
        if not name:
            raise click.UsageError(f"-e {pair}: write NAME=VALUE, or NAME for the value it has here")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return tuple(f"{name}={value}" for name, value in found.items())


def user(text: str) -> tuple[int, int]:
    """Read ``UID[:GID]``. Raises ``UsageError``."""
    uid, _, gid = text.partition(":")
    if not uid.isdecimal() or not (gid or "0").isdecimal():
        raise click.UsageError(f"-u {text}: write UID or UID:GID, in numbers: a guest has no users by name")
    return int(uid), int(gid or "0")
