"""Events of containers, for containerd (``--events``) and for people who watch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from sandbox_api.convert import timestamp
from sandbox_api.events import Publisher
from sandbox_api.interface import Mount
from sandbox_api.proto import events_pb2 as pb
from sandbox_api.proto import types_pb2

from ..model.container import Container
from ..model.process import Process

REMEMBERED = 256
"""Events that a watcher is told of that came before it."""
MAX_UNREAD = 10_000
"""Events that a slow watcher may be behind; beyond it the oldest go."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, ``at`` nanoseconds since the epoch."""

    at: int
    namespace: str
    topic: str
    message: Message

    def row(self) -> dict[str, Any]:
        """The event in plain values."""
        from google.protobuf.json_format import MessageToDict  # only for a watcher: it is large

        members = MessageToDict(self.message, preserving_proto_field_name=True)
        return {"at": self.at, "namespace": self.namespace, "topic": self.topic, **members}


@dataclass(slots=True, eq=False)
class Watcher:
    """A watcher: past events, then new ones."""

    past: list[Event]
    _unread: deque[Event] = field(default_factory=lambda: deque(maxlen=MAX_UNREAD))
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, event: Event) -> None:
        """Add an event."""
        self._unread.append(event)
        self._more.set()

    async def next(self) -> Event:
        """The next event, once there is one."""
        while not self._unread:
            self._more.clear()
            await self._more.wait()
        return self._unread.popleft()


class TaskEvents:
    """One method an event."""

    def __init__(self, publisher: Publisher | None) -> None:
        self._publisher = publisher
        self._past: deque[Event] = deque(maxlen=REMEMBERED)
        self._watchers: set[Watcher] = set()
        self.on_exit: list[Callable[[Container, Process], None]] = []
        """Called with each process that has ended."""

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Watch from here on."""
        watcher = Watcher(list(self._past))
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

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
        for listener in self.on_exit:
            listener(container, process)
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

    def _tell(self, container: Container, topic: str, message: Message) -> None:
        event = Event(time.time_ns(), container.namespace, topic, message)
        self._past.append(event)
        for watcher in self._watchers:
            watcher.tell(event)
        if self._publisher is not None:
            self._publisher.publish(event.namespace, topic, message, event.at)
