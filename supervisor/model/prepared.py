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
    """The container's bundle below --dir; "" once the preparation is spent."""
    listed: bool = False
    """It came in a whole list (``extensions.tasks``), and will be in the next list again."""
    digest: str = ""
    """Tells whether the same is handed over again."""

    @property
    def spent(self) -> bool:
        """Its container was deleted: all that is left is a mark that the client still lists it."""
        return not self.bundle

    @property
    def root(self) -> str:
        """The folder that the root file system is mounted on."""
        return f"{self.bundle}/rootfs"
