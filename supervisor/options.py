"""The settings of a daemon, and the paths that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers import relay_protocol

from .aot.terms import EngineMode, Settings


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one daemon."""

    listen: Path
    """Socket of the Sandbox API."""
    folder: Path
    """State, mounts, the helpers' sockets, and the Task API's."""
    aot: Settings
    events: str = "off"
    """Socket to forward events to; "auto" is containerd's, once it is there, and "off" none."""
    socket_group: int | None = None
    """Group that may use the APIs beside root."""
    require_confinement: bool = False
    """Refuse to run where the kernel or a library lacks what confines workers."""
    engine: EngineMode = EngineMode.AUTO
    """The engine of containers that name none."""
    renew: float = 600
    """Seconds without any instance after which the forkserver is renewed; 0 is never."""
    image_memory: int = 0
    """Bytes that images of loaded modules may take; 0 makes none."""
    metrics: str = ""
    """Address of the metrics: host:port, or unix:PATH; "" is none."""
    private: bool = False
    """A command's own: it ends when its standard input does, with all that it runs, and removes its folder."""

    @property
    def task_socket(self) -> Path:
        """Socket of the Task API over ttrpc."""
        return self.folder / "task.sock"

    @property
    def info_socket(self) -> Path:
        """Socket of the read-only service for people and their tools (HTTP)."""
        return self.folder / "info.sock"

    @property
    def grpc_task_socket(self) -> Path:
        """Socket of the Task API over gRPC."""
        return self.folder / "task-grpc.sock"

    @property
    def listeners(self) -> dict[int, Path]:
        """Sockets that outlive us in the relay, by their numbers there."""
        return {
            relay_protocol.TASKS: self.task_socket.absolute(),
            relay_protocol.GRPC_TASKS: self.grpc_task_socket.absolute(),
            relay_protocol.SANDBOXES: self.listen.absolute(),
        }
