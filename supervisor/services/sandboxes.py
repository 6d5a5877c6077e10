"""The Sandbox API on sandboxes: what each call means, and in which states it is allowed."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from sandbox_api.errors import InvalidArgument, NotFound
from sandbox_api.interface import Exit, NewSandbox, Platform, PodConfig, Preparation, SandboxInfo, Usage

from .. import __version__
from ..lifecycle import usage
from ..lifecycle.containers import ContainerManager
from ..lifecycle.preparations import Preparations
from ..lifecycle.signals import Signals
from ..model.container import Container
from ..model.registry import Registry
from ..model.sandbox import Sandbox, SandboxState
from ..oci import pod_files, sysctls
from ..oci.netns import open_netns
from ..state.store import Store, StoreFailed
from .tasks import TaskService

log = logging.getLogger(__name__)

_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "loongarch64": "loong64"}


MAX_PIDS = 32
"""Pids that a sandbox's record keeps: the first, which Start answered, and those of the last supervisors."""


class SandboxService:
    """Implements ``sandbox_api.interface.SandboxService``."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        containers: ContainerManager,
        preparations: Preparations,
        signals: Signals,
        tasks: TaskService,
        task_socket: str,
        folder: str,
    ) -> None:
        self._registry = registry
        self._store = store
        self._containers = containers
        self._preparations = preparations
        self._signals = signals
        self._tasks = tasks
        self._task_socket = task_socket
        self._folder = folder

    async def create(self, namespace: str, new: NewSandbox) -> None:
        """Record a sandbox."""
        self._registry.new_sandbox(namespace, new.id)
        pod = new.pod or PodConfig()
        if pod.user_namespace:
            raise InvalidArgument(
                f"sandbox {new.id}: user namespaces are not supported (hostUsers: false): guests have no privilege"
            )
        settings = sysctls.check(pod.sysctls, new.netns)
        if new.netns:
            await _prepare_network(new.netns, settings)
            self._registry.new_sandbox(namespace, new.id)  # another Create may have come in between
        sandbox = Sandbox(namespace, new.id, new.netns, dict(new.labels), created_at=time.time_ns())
        files = pod_files.place(self._folder, namespace, new.id)
        try:
            if new.pod is not None:
                pod_files.make(files, new.pod)
            self._store.add_sandbox(sandbox, new)
        except BaseException:
            pod_files.remove(files)
            raise
        self._registry.sandboxes[namespace, new.id] = sandbox
        log.info("created sandbox %s namespace=%s netns=%s", new.id, namespace, new.netns or "none")

    async def start(self, namespace: str, sandbox_id: str) -> SandboxInfo:
        """Make a created sandbox ready. It has no process of its own to start."""
        sandbox = self._registry.sandbox(namespace, sandbox_id)
        async with self._holding(sandbox):
            sandbox.require("start", SandboxState.CREATED)
            pids = _with_ours(sandbox.pids)
            self._store.update_sandbox(replace(sandbox, state=SandboxState.READY, pids=pids))
            sandbox.state, sandbox.pids = SandboxState.READY, pids
        return self._info(sandbox)

    async def platform(self, namespace: str, sandbox_id: str) -> Platform:
        """Name the host's platform: guests see WASI, but images and specs are chosen by the host's name."""
        self._registry.sandbox(namespace, sandbox_id)
        machine = os.uname().machine
        return Platform("linux", _GOARCH.get(machine, machine))

    async def stop(self, namespace: str, sandbox_id: str, timeout: int) -> None:
        """End its containers and then the sandbox. One that is gone is stopped."""
        sandbox = self._registry.sandboxes.get((namespace, sandbox_id))
        if sandbox is None:
            return
        async with sandbox.lock:
            if self._is_there(sandbox):
                await self._stop(sandbox, timeout)

    async def wait(self, namespace: str, sandbox_id: str) -> Exit:
        """Answer when it has stopped."""
        return await self._registry.sandbox(namespace, sandbox_id).wait()

    async def status(self, namespace: str, sandbox_id: str, verbose: bool) -> SandboxInfo:
        """Describe it, in any state."""
        return self._info(self._registry.sandbox(namespace, sandbox_id), verbose)

    async def shutdown(self, namespace: str, sandbox_id: str) -> None:
        """Stop it if it is not stopped, and forget it with all of its containers.

        One that is gone is shut down: iSulad's libraries cannot tell a lost answer from a failure.
        """
        sandbox = self._registry.sandboxes.get((namespace, sandbox_id))
        if sandbox is None:
            return
        async with sandbox.lock:
            if not self._is_there(sandbox):  # shut down while we waited, and its id may be another's
                return
            await self._stop(sandbox, 0)
            for container in list(sandbox.containers.values()):
                async with container.lock:
                    if sandbox.containers.get(container.id) is container:  # or it was deleted while we waited
                        await self._containers.remove(container)
            await self._preparations.forget_all(sandbox)
            self._store.remove_sandbox(sandbox)
            pod_files.remove(pod_files.place(self._folder, namespace, sandbox_id))
            self._registry.sandboxes.pop((namespace, sandbox_id), None)
            sandbox.forget()
        log.info("shut down sandbox %s", sandbox_id)

    async def metrics(self, namespace: str, sandbox_id: str) -> Usage:
        """Sum up what its containers use."""
        sandbox = self._registry.sandbox(namespace, sandbox_id)
        used = [self._containers.usage(container) for container in sandbox.containers.values()]
        return usage.total(used, time.time_ns())

    async def update(
        self,
        namespace: str,
        sandbox_id: str,
        labels: dict[str, str] | None,
        prepared: Sequence[Preparation] | None,
    ) -> None:
        """Replace its labels, and the list of what is prepared in it, where given."""
        sandbox = self._registry.sandbox(namespace, sandbox_id)
        async with self._holding(sandbox):
            if prepared is not None:
                await self._preparations.replace(sandbox, prepared)
            if labels is not None:
                self._store.update_sandbox(replace(sandbox, labels=labels))
                sandbox.labels = labels

    async def prepare(self, namespace: str, sandbox_id: str, new: Preparation) -> str:
        """Take a container, or an exec, before it is created."""
        sandbox = self._registry.sandbox(namespace, sandbox_id)
        async with self._holding(sandbox):
            return self._preparations.prepare(sandbox, new)

    async def purge(self, namespace: str, sandbox_id: str, container_id: str, exec_id: str) -> None:
        """Undo ``prepare``."""
        sandbox = self._registry.sandbox(namespace, sandbox_id)
        async with self._holding(sandbox):
            await self._preparations.purge(sandbox, container_id, exec_id)

    async def update_resources(self, namespace: str, sandbox_id: str, container_id: str, resources: bytes) -> None:
        """Change the limits of one of its containers."""
        sandbox = self._registry.sandbox(namespace, sandbox_id)
        if container_id not in sandbox.containers:
            raise NotFound(f"container {container_id!r}: there is none in sandbox {sandbox_id}")
        await self._tasks.update(namespace, container_id, resources)

    def _is_there(self, sandbox: Sandbox) -> bool:
        return self._registry.sandboxes.get((sandbox.namespace, sandbox.id)) is sandbox

    @asynccontextmanager
    async def _holding(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """Hold a sandbox's lock. Raises ``NotFound`` where it was shut down before."""
        async with sandbox.lock:
            if not self._is_there(sandbox):
                raise NotFound(f"sandbox {sandbox.id}: it was shut down meanwhile")
            yield

    async def _stop(self, sandbox: Sandbox, timeout: float) -> None:
        if sandbox.state is SandboxState.NOTREADY:
            return
        sandbox.stopping = True  # nothing new is created or started in it from here on
        try:
            await self._signals.terminate(list(sandbox.containers.values()), timeout)
            at = time.time_ns()
            self._store.update_sandbox(replace(sandbox, state=SandboxState.NOTREADY, exited_at=at))
        finally:
            sandbox.stopping = False
        sandbox.end(at)
        log.info("stopped sandbox %s", sandbox.id)

    def _pid(self, sandbox: Sandbox) -> int:
        """The pid to answer for a sandbox: ours, recorded first, or the last recorded where the disk refuses."""
        pids = _with_ours(sandbox.pids)
        if pids != sandbox.pids:
            try:
                self._store.update_sandbox(replace(sandbox, pids=pids))
            except StoreFailed as error:
                log.warning("sandbox %s: %s", sandbox.id, error)
                return sandbox.pids[-1] if sandbox.pids else 0
            sandbox.pids = pids
        return pids[-1]

    def _info(self, sandbox: Sandbox, verbose: bool = False) -> SandboxInfo:
        info = {}
        if verbose:
            info = {
                "state": sandbox.state.value,
                "containers": str(len(sandbox.containers)),
                "netns": sandbox.netns,
                "sandboxer": f"wasm-sandboxer {__version__}",
                **{f"engine of {each.id}": _engine(each) for each in sandbox.containers.values() if each.init.tier},
            }
        return SandboxInfo(
            id=sandbox.id,
            ready=sandbox.state is SandboxState.READY,
            pid=self._pid(sandbox),
            created_at=sandbox.created_at,
            exited_at=sandbox.exited_at,
            labels=sandbox.labels,
            task_socket=self._task_socket,
            info=info,
        )


async def _prepare_network(path: str, settings: dict[str, str]) -> None:
    """Make a pod's settings in its network namespace. Raises a ``SandboxerError``."""
    namespace = open_netns(path)
    try:
        await asyncio.to_thread(sysctls.apply, namespace, settings)
    finally:
        os.close(namespace)


def _with_ours(pids: list[int]) -> list[int]:
    """Put our pid last; of the others keep the first and the newest."""
    others = [pid for pid in pids if pid != os.getpid()]
    return [*others[:1], *others[1:][-(MAX_PIDS - 2) :], os.getpid()]


def _engine(container: Container) -> str:
    """A container's engine, how its code runs there, and why that is no better."""
    engine, tier, reason = container.init.engine
    return ": ".join(filter(None, (f"{engine}, {tier}", reason)))
