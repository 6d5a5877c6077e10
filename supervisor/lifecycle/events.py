"""What happens to containers, told to whoever wants events (``--events``)."""

from __future__ import annotations

import time
from collections.abc import Iterable

from google.protobuf.message import Message

from sandbox_api.convert import timestamp
from sandbox_api.events import Publisher
from sandbox_api.interface import Mount
from sandbox_api.proto import events_pb2 as pb
from sandbox_api.proto import types_pb2

from ..model.container import Container
from ..model.process import Process


class TaskEvents:
    """One method an event. Without a publisher nothing is told."""

    def __init__(self, publisher: Publisher | None) -> None:
        self._publisher = publisher

    def created(self, container: Container, rootfs: Iterable[Mount]) -> None:
        """TaskCreate."""
        stdio = container.init.stdio
        event = pb.TaskCreate(
            container_id=container.id,
            bundle=container.bundle,
            rootfs=[
                types_pb2.Mount(type=each.type, source=each.source, target=each.target, options=each.options)
                for each in rootfs
            ],
            io=pb.TaskIO(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, terminal=stdio.terminal),
        )
        self._tell(container, "/tasks/create", event)

    def started(self, container: Container, process: Process) -> None:
        """TaskStart, or TaskExecStarted."""
        if process.exec_id:
            event: Message = pb.TaskExecStarted(container_id=container.id, exec_id=process.exec_id, pid=process.pid)
            self._tell(container, "/tasks/exec-started", event)
        else:
            self._tell(container, "/tasks/start", pb.TaskStart(container_id=container.id, pid=process.pid))

    def exec_added(self, container: Container, process: Process) -> None:
        """TaskExecAdded."""
        event = pb.TaskExecAdded(container_id=container.id, exec_id=process.exec_id)
        self._tell(container, "/tasks/exec-added", event)

    def ended(self, container: Container, process: Process) -> None:
        """TaskExit; ``id`` is the exec's, or the container's own for its init process."""
        if process.exit is None:
            return
        event = pb.TaskExit(
            container_id=container.id,
            id=process.exec_id or container.id,
            pid=process.pid,
            exit_status=process.exit.status,
            exited_at=timestamp(process.exit.at),
        )
        self._tell(container, "/tasks/exit", event)

    def out_of_memory(self, container: Container) -> None:
        """TaskOOM."""
        self._tell(container, "/tasks/oom", pb.TaskOOM(container_id=container.id))

    def deleted(self, container: Container, process: Process) -> None:
        """TaskDelete; ``id`` is the exec's, or "" for the container."""
        event = pb.TaskDelete(
            container_id=container.id,
            id=process.exec_id,
            pid=process.pid,
            exit_status=process.exit.status if process.exit else 0,
            exited_at=timestamp(process.exit.at) if process.exit else None,
        )
        self._tell(container, "/tasks/delete", event)

    def paused(self, container: Container) -> None:
        """TaskPaused."""
        self._tell(container, "/tasks/paused", pb.TaskPaused(container_id=container.id))

    def resumed(self, container: Container) -> None:
        """TaskResumed."""
        self._tell(container, "/tasks/resumed", pb.TaskResumed(container_id=container.id))

    def _tell(self, container: Container, topic: str, event: Message) -> None:
        if self._publisher is not None:
            self._publisher.publish(container.namespace, topic, event, time.time_ns())
