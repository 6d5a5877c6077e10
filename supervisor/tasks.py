"""The Task API on containers: what each call means, and in which states it is allowed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sandbox_api.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, SandboxerError, Unimplemented
from sandbox_api.interface import Connection, Exit, NewTask, TaskInfo, TaskStatus, Usage

from . import __version__, bundle, rootfs, streams, usage, wasi
from . import spec as oci
from .cgroups import Hierarchy, Resources
from .container import Container
from .launcher import Launcher
from .netns import open_netns
from .process import Process, ProcessState
from .registry import Registry
from .relay import Relay
from .sandbox import Sandbox, SandboxState
from .store import Recorded, Store

log = logging.getLogger(__name__)

KILL_SECONDS = 30.0
"""How long a killed process may take to be gone; only one stuck in the kernel takes longer."""

_STATUS = {
    ProcessState.CREATED: TaskStatus.CREATED,
    ProcessState.STARTING: TaskStatus.CREATED,
    ProcessState.RUNNING: TaskStatus.RUNNING,
    ProcessState.PAUSED: TaskStatus.PAUSED,
    ProcessState.STOPPED: TaskStatus.STOPPED,
}
_ENDS_NOTHING = frozenset(
    {
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)


class Tasks:
    """Implements ``sandbox_api.interface.TaskService``."""

    def __init__(
        self,
        folder: str,
        registry: Registry,
        store: Store,
        hierarchy: Hierarchy,
        launcher: Launcher,
        relay: Relay,
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._store = store
        self._hierarchy = hierarchy
        self._launcher = launcher
        self._relay = relay

    async def create(self, namespace: str, new: NewTask) -> int:
        """Prepare a container in a ready sandbox: record it, then mount what it needs."""
        self._registry.new_container(namespace, new.id)
        with _about(new.id):
            return self._create(namespace, new)

    def _create(self, namespace: str, new: NewTask) -> int:
        config = bundle.read_config(new.bundle)
        spec = oci.parse(config)
        sandbox = self._sandbox_of(namespace, new, spec)
        sandbox.require("create a container in it", SandboxState.READY)
        if new.stdio.terminal or spec.process.terminal:
            raise Unimplemented("terminals are not served yet")
        streams.check(new.stdio)
        resources = Resources.parse(spec.resources)
        plan = rootfs.plan(spec, new.bundle, new.rootfs, f"{self._folder}/containers/{namespace}/{new.id}")
        container = Container(namespace, new.id, sandbox.id, new.bundle, Process(0, new.id, "", new.stdio))
        self._store.add_container(container, Recorded(config, plan))
        try:
            rootfs.mount(plan)
            if spec.cgroups_path or resources.limited:
                path = spec.cgroups_path or f"/wasm-sandboxer/{namespace}/{new.id}"
                container.cgroup = self._hierarchy.create(path, resources)
                self._store.update_container(container)
        except BaseException:
            if container.cgroup is not None:
                container.cgroup.delete()
            rootfs.unmount(plan)
            self._store.remove_container(container)
            raise
        self._registry.add(sandbox, container)
        log.info("created %s sandbox=%s bundle=%s", new.id, sandbox.id, new.bundle)
        return 0

    async def start(self, namespace: str, task_id: str, exec_id: str) -> int:
        """Run a created process."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        async with container.lock:
            process.require("start", ProcessState.CREATED)
            sandbox = self._registry.sandbox(namespace, container.sandbox_id)
            sandbox.require("start a container in it", SandboxState.READY)
            process.state = ProcessState.STARTING
            try:
                with _about(process.name):
                    process.pid = await self._launch(sandbox, container, process)
            except BaseException:
                process.state = ProcessState.CREATED
                raise
            process.state = ProcessState.RUNNING
            try:
                self._store.update_process(process)
            except sqlite3.Error as error:
                await self._launcher.kill(process.instance, signal.SIGKILL)
                raise Internal(f"container {process.name}: started, but not recorded ({error}): killed") from None
        log.info("started %s pid=%d", process.name, process.pid)
        return process.pid

    async def wait(self, namespace: str, task_id: str, exec_id: str) -> Exit:
        """Answer when the process has ended."""
        _, process = self._registry.process(namespace, task_id, exec_id)
        return await process.wait()

    async def state(self, namespace: str, task_id: str, exec_id: str) -> TaskInfo:
        """The state of a process, in any state."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        return _info(container, process)

    async def kill(self, namespace: str, task_id: str, exec_id: str, number: int, everyone: bool) -> None:
        """Send a signal. Takes no lock: it must get through to a process that hangs in its start."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        if number not in signal.valid_signals():
            raise InvalidArgument(f"container {process.name}: there is no signal {number}")
        if everyone and not exec_id:
            ended = await asyncio.gather(*(self._signal(each, number) for each in container.processes()))
            if not any(ended):
                raise NotFound(f"container {process.name}: every process of it has ended")
        elif not await self._signal(process, number):
            raise NotFound(f"container {process.name}: the process has ended")

    async def delete(self, namespace: str, task_id: str, exec_id: str) -> TaskInfo:
        """Forget a process that does not run; with the init process, the container and all of its."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        async with container.lock:
            if self._registry.containers.get((namespace, task_id)) is not container:
                raise NotFound(f"container {task_id}: deleted")
            process.require("delete", ProcessState.CREATED, ProcessState.STOPPED)
            if exec_id:
                self._store.remove_process(process)
                self._registry.processes.pop(process.instance, None)
                del (container.execs or {})[exec_id]
                process.forget()
            else:
                for each in container.processes():
                    each.require("delete its container", ProcessState.CREATED, ProcessState.STOPPED)
                await self._remove(container)
        log.info("deleted %s", process.name)
        return _info(container, process)

    async def pids(self, namespace: str, task_id: str) -> Sequence[int]:
        """The processes that run."""
        return [process.pid for process in self._registry.container(namespace, task_id).alive()]

    async def connect(self, namespace: str, task_id: str) -> Connection:
        """Who answers for a container."""
        container = self._registry.container(namespace, task_id)
        return Connection(os.getpid(), container.init.pid, __version__)

    async def stats(self, namespace: str, task_id: str) -> Usage:
        """What a container uses; nothing once it has ended."""
        return self.usage(self._registry.container(namespace, task_id))

    async def close_io(self, namespace: str, task_id: str, exec_id: str) -> None:
        """End a process's standard input, after what was written to it. Where it has ended already, it is done."""
        _, process = self._registry.process(namespace, task_id, exec_id)
        if process.pumped:
            await self._relay.ready()
            self._relay.close_input(process.instance)

    def usage(self, container: Container) -> Usage:
        """What a container uses: as its control group counts it, or else its processes in /proc."""
        counted = container.cgroup.usage(time.time_ns()) if container.cgroup else None
        if counted is not None:
            return counted
        return usage.of_processes([process.pid for process in container.alive()], time.time_ns())

    async def stop(self, containers: Iterable[Container], timeout: float) -> None:
        """End every process of these: SIGTERM, and SIGKILL after ``timeout`` seconds."""
        await asyncio.gather(*(self._stop(container, timeout) for container in containers))

    async def remove(self, container: Container) -> None:
        """Forget a container whose processes have ended, or never ran."""
        async with container.lock:
            if (container.namespace, container.id) in self._registry.containers:
                await self._remove(container)

    async def _remove(self, container: Container) -> None:
        cgroup = container.cgroup
        while cgroup is not None and not cgroup.delete():
            await asyncio.sleep(0.005)  # a reaped process leaves its group a little later
        rootfs.unmount(self._store.recorded(container).plan)
        self._store.remove_container(container)
        self._registry.remove(container)
        for process in container.processes():
            process.forget()

    async def _stop(self, container: Container, timeout: float) -> None:
        if timeout > 0:
            await self._signal_all(container, signal.SIGTERM)
            await self._until_ended(container, timeout)
        for _ in range(2):  # twice: a start under way may have become a process after the first
            await self._signal_all(container, signal.SIGKILL)
            await self._until_ended(container, KILL_SECONDS)
            if not container.alive():
                return
        raise Internal(f"container {container.id}: pid {container.alive()[0].pid} does not end after SIGKILL")

    async def _signal_all(self, container: Container, number: int) -> None:
        for process in container.processes():
            await self._signal(process, number)

    async def _until_ended(self, container: Container, timeout: float) -> None:
        """Wait for what runs to end, and for a start under way to come out."""
        ends: list[Coroutine[Any, Any, object]] = [process.wait() for process in container.alive()]
        if any(process.state is ProcessState.STARTING for process in container.processes()):
            ends.append(_held_and_released(container.lock))
        if not ends:
            return
        pending = [asyncio.ensure_future(end) for end in ends]
        _, late = await asyncio.wait(pending, timeout=timeout)
        for waiter in late:
            waiter.cancel()

    async def _signal(self, process: Process, number: int) -> bool:
        """Send a signal; false where the process has ended. One that never ran ends by a signal that ends."""
        if process.state is ProcessState.CREATED:
            if number not in _ENDS_NOTHING:
                process.state = ProcessState.STOPPED
                process.exit = Exit(128 + number, time.time_ns())
                self._store.update_process(process)
                process.end(process.exit)
            return True
        if process.exit is not None:
            return False
        try:
            await self._launcher.kill(process.instance, number)
        except NotFound:
            return False
        return True

    async def _launch(self, sandbox: Sandbox, container: Container, process: Process) -> int:
        """Open all that the worker is given, hand it over, and close it here again."""
        recorded = self._store.recorded(container)
        spec = oci.parse(recorded.config)
        netns = sandbox.netns or spec.netns
        own: list[int] = []
        opened = streams.Streams()
        world = wasi.World()
        try:
            opened = streams.open_streams(process.stdio)
            world = wasi.assemble(spec, spec.process, recorded.plan)
            for path in container.cgroup.procs() if container.cgroup else ():
                own.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            cgroups = len(own)
            if netns:
                own.append(open_netns(netns))
            limit = Resources.parse(spec.resources).memory_limit or 0
            request = wasi.request(process.instance, spec.process, world, limit, cgroups, bool(netns))
            if opened.pump_from >= 0:
                await self._relay.ready()
                process.pumped = True
                source, opened.pump_from = opened.pump_from, -1
                sink, opened.pump_to = opened.pump_to, -1
                self._relay.pump(process.instance, source, sink)
            fds = [world.module, opened.stdin, opened.stdout, opened.stderr, *own, *world.folders]
            return await self._launcher.start(request, fds)
        except OSError as error:
            raise FailedPrecondition(f"{error.filename}: {error.strerror}") from None
        finally:
            opened.close()
            world.close()
            for fd in own:
                os.close(fd)

    def _sandbox_of(self, namespace: str, new: NewTask, spec: oci.Spec) -> Sandbox:
        """The sandbox a new container belongs to. The request does not say; its bundle does."""
        name = bundle.sandbox_id(new.bundle, spec.annotations)
        if name:
            return self._registry.sandbox(namespace, name)
        here = [sandbox for (where, _), sandbox in self._registry.sandboxes.items() if where == namespace]
        if len(here) != 1:
            raise FailedPrecondition(
                f"which of the {len(here)} sandboxes of namespace {namespace} is it for? "
                "Annotate config.json with io.kubernetes.cri.sandbox-id"
            )
        return here[0]


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Errors in here are about this container."""
    try:
        yield
    except SandboxerError as error:
        raise type(error)(f"container {name}: {error}") from None


async def _held_and_released(lock: asyncio.Lock) -> None:
    async with lock:
        pass


def _info(container: Container, process: Process) -> TaskInfo:
    status = _STATUS[process.state]
    return TaskInfo(container.id, process.exec_id, container.bundle, process.pid, status, process.stdio, process.exit)
