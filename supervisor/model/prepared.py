"""A container, or an exec, that its client handed over before it creates it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from sandbox_api.interface import NewExec, Preparation

New = TypeVar("New", bound=Preparation)


@dataclass(frozen=True, slots=True)
class Prepared(Generic[New]):
    """A preparation on record, from Prepare or from ``extensions.tasks``."""

    sandbox_id: str
    new: New
    bundle: str
    """The container's bundle below --dir; "" once the preparation is spent."""
    listed: bool = False
    """Came in a whole list (``extensions.tasks``), and will be in the next list again."""
    digest: str = ""
    """Tells whether the same is handed over again."""

    @property
    def key(self) -> tuple[str, str]:
        """The ids of the container and of the exec, which is "" for the container itself."""
        return key(self.new)

    @property
    def spent(self) -> bool:
        """Its container was deleted: all that is left is a mark that the client still lists it."""
        return not self.bundle

    @property
    def root(self) -> str:
        """The folder that the root file system is mounted on."""
        return f"{self.bundle}/rootfs"


def key(new: Preparation) -> tuple[str, str]:
    """The ids of the container and of the exec, which is "" for the container itself."""
    return new.container_id, new.exec_id if isinstance(new, NewExec) else ""
