"""The supervisor's real parts, put together as the daemon does, but without forkserver and relay."""

from __future__ import annotations

import json
from pathlib import Path

from sandbox_api.interface import NewSandbox, NewTask
from supervisor import cgroups
from supervisor.ipc.forkserver import ForkserverClient
from supervisor.ipc.logger import LoggerClient
from supervisor.ipc.relay import RelayClient
from supervisor.lifecycle.containers import ContainerManager
from supervisor.lifecycle.events import TaskEvents
from supervisor.lifecycle.execs import Execs
from supervisor.lifecycle.preparations import Preparations
from supervisor.lifecycle.signals import Signals
from supervisor.lifecycle.start import Starter
from supervisor.model.registry import Registry
from supervisor.services.sandboxes import SandboxService
from supervisor.services.tasks import TaskService
from supervisor.state.store import Store
from workers.greeting import Filters

from .specs import LEAST

NS = "ns"


class Parts:
    """A daemon's parts, whose forkserver answers ``Unavailable``: so a test sees that a call was let through."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        self.folder = folder
        self.registry = Registry()
        self.store = Store(str((state or folder) / "state.db"))
        forkserver = ForkserverClient(str(folder / "forkserver.sock"), Filters())
        relay = RelayClient(str(folder / "relay.sock"))
        logger = LoggerClient(str(folder / "logger.sock"), folder / "logs")
        self.containers = containers = ContainerManager(str(folder), self.registry, self.store, cgroups.detect())
        events = TaskEvents(None)
        signals = Signals(self.store, forkserver, events)
        execs = Execs(self.registry, self.store, events)
        preparations = Preparations(str(folder), self.registry, self.store, containers, execs)
        starter = Starter(self.registry, self.store, containers, forkserver, relay, logger)
        self.tasks = TaskService(
            self.registry,
            self.store,
            containers,
            execs,
            preparations,
            signals,
            starter,
            forkserver,
            relay,
            logger,
            events,
        )
        self.sandboxes = SandboxService(
            self.registry,
            self.store,
            containers,
            preparations,
            signals,
            self.tasks,
            str(folder / "task.sock"),
            str(folder),
        )

    async def pod(self, namespace: str = NS) -> None:
        """A ready sandbox."""
        await self.sandboxes.create(namespace, NewSandbox("pod"))
        await self.sandboxes.start(namespace, "pod")

    def bundle(self, name: str) -> str:
        """A bundle for a container of this name, in the sandbox."""
        bundle = self.folder / "bundles" / name
        (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        (bundle / "rootfs/app.wasm").write_bytes(b"\0asm\1\0\0\0")
        config = LEAST | {"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}
        (bundle / "config.json").write_text(json.dumps(config))
        return str(bundle)

    async def create(self, name: str, namespace: str = NS) -> None:
        """A created container in it."""
        await self.tasks.create(namespace, NewTask(name, self.bundle(name)))
