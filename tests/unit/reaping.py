"""An exit recorder with all around it, for tests of exits; in place of the forkserver a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf.message import Message

from sandbox_api.errors import Unavailable
from sandbox_api.events import Publisher
from sandbox_api.interface import Exit, NewSandbox, Stdio
from sandbox_api.proto import events_pb2
from supervisor.ipc.forkserver import ForkserverClient
from supervisor.ipc.logger import LoggerClient
from supervisor.lifecycle.events import TaskEvents
from supervisor.lifecycle.execs import Execs
from supervisor.lifecycle.exits import ExitRecorder
from supervisor.lifecycle.orphans import Orphans
from supervisor.lifecycle.signals import Signals
from supervisor.model.container import Container
from supervisor.model.process import Process, ProcessState
from supervisor.model.registry import Registry
from supervisor.model.sandbox import Sandbox
from supervisor.oci.rootfs import MountPlan
from supervisor.state.store import Recorded, Store
from workers.greeting import Filters
from workers.start_request import StartRequest

from .disk import Disk, disk
from .standin import StandIn

AT = 1_700_000_000_000_000_000


class Published(Publisher):
    """Keeps the events that would be forwarded."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.events: list[Message] = []

    def publish(self, namespace: str, topic: str, event: Message, at: int) -> None:
        self.events.append(event)


class Scene:
    """An exit recorder with two running processes, instances 1 and 2 of pids 70 and 71, and a forkserver."""

    def __init__(self, small: Disk) -> None:
        self.disk = small
        self.path = f"{small.folder}/state.db"
        self.store = Store(self.path)
        self.registry = Registry()
        sandbox = self.registry.sandboxes["ns", "pod"] = Sandbox("ns", "pod")
        self.store.add_sandbox(sandbox, NewSandbox("pod"))
        for name, pid in (("a", 70), ("b", 71)):
            container = Container("ns", name, "pod", "/bundle", Process(0, name, "", Stdio()))
            self.store.add_container(container, Recorded(b"", MountPlan("/")), "")
            container.init.state, container.init.pid = ProcessState.RUNNING, pid
            self.store.update_process(container.init)
            self.registry.add(sandbox, container)
        self.standin = StandIn()
        self.published = Published()
        self.forkserver = ForkserverClient(f"{small.folder}/forkserver.sock", Filters())
        logger = LoggerClient(f"{small.folder}/logger.sock", Path(small.folder) / "logs")
        events = TaskEvents(self.published)
        signals = Signals(self.store, self.forkserver, events)
        execs = Execs(self.registry, self.store, events)
        self.exits = ExitRecorder(self.registry, self.store, self.forkserver, events, signals, execs, logger)
        self.orphans = Orphans(self.registry, self.forkserver)

    async def join(self) -> None:
        await self.standin.listen(f"{self.disk.folder}/forkserver.sock")
        await self.join_again()

    async def join_again(self) -> None:
        await self.forkserver.connect(self.exits.record, lambda: None)

    async def start_that_is_undone(self) -> None:
        """Of instance 2: the forkserver hangs up in the middle of it."""
        self.process("b").state, self.process("b").pid = ProcessState.CREATED, 0
        self.standin.on_start = lambda instance: self.standin.hang_up()
        with pytest.raises(Unavailable):
            await self.forkserver.start(StartRequest(instance=2))

    @property
    def ended(self) -> list[str]:
        """Containers whose exits were published, in order."""
        return [event.container_id for event in self.published.events if isinstance(event, events_pb2.TaskExit)]

    def process(self, name: str) -> Process:
        return self.registry.container("ns", name).init

    async def acknowledged(self) -> list[int]:
        """The next exits that the forkserver may forget."""
        return list(await self.standin.acknowledged.get())

    def on_record(self) -> dict[int, Exit | None]:
        """As a supervisor that begins just now would read it."""
        store = Store(self.path)
        try:
            return {container.init.instance: container.init.exit for container, *_ in store.containers()}
        finally:
            store.close()


def run(folder: Path, test: Callable[[Scene], Awaitable[None]]) -> None:
    async def main(small: Disk) -> None:
        scene = Scene(small)
        async with asyncio.timeout(20):
            await scene.join()
            await test(scene)
        scene.forkserver.close()
        scene.store.close()

    with disk(folder / "disk") as small:
        asyncio.run(main(small))
