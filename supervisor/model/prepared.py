"""A container, or an exec, that its client handed over before it creates it."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_api.interface import Mount, Stdio


@dataclass(frozen=True, slots=True)
class Prepared:
    """What Prepare, or ``extensions.tasks``, said; ``exec_id`` "" is the container itself."""

    sandbox_id: str
    container_id: str
    exec_id: str
    spec: bytes
    """JSON: of a container its OCI spec, of an exec its OCI process."""
    rootfs: tuple[Mount, ...]
    stdio: Stdio
    bundle: str
    """The container's bundle below --dir."""

    @property
    def root(self) -> str:
        """The folder that the root file system is mounted on."""
        return f"{self.bundle}/rootfs"
