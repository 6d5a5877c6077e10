"""The Task API on containers: what each call means, and in which states it is allowed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

from sandbox_api.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    SandboxerError,
    TooManyCalls,
    Unavailable,
)
from sandbox_api.interface import Connection, Exit, NewExec, NewTask, Stdio, TaskInfo, TaskStatus, Usage

from .. import __version__
from ..cgroups import Resources
from ..host import linear_memory, proc
from ..host.counters import Counters
from ..ipc.forkserver import ForkserverClient
from ..ipc.logger import LoggerClient
from ..ipc.relay import RelayClient
from ..lifecycle.containers import ContainerManager
from ..lifecycle.events import TaskEvents
from ..lifecycle.execs import Execs
from ..lifecycle.preparations import Preparations
from ..lifecycle.signals import Signals
from ..lifecycle.start import Starter
from ..model.container import Container
from ..model.process import ALIVE, Process, ProcessState
from ..model.registry import Registry, check_id
from ..model.sandbox import SandboxState
from ..oci import spec as oci
from ..oci import streams, wasi
from ..state.store import Store, StoreFailed

log = logging.getLogger(__name__)

FREEZE_SECONDS = 10.0
"""Seconds that the kernel may take to freeze or thaw a container."""

MAX_STARTS = 512
"""Starts that may be under way, or wait for their container, at once. Each holds a dozen descriptors, and all share the
forkserver: one more would only make all of them late."""
MAX_STARTS_OF_A_SANDBOX = 256
"""Starts of one sandbox at once: modules that are slow to load hold up no more than their own sandbox."""
SPARE_STARTS = 256
"""Starts beyond ``MAX_STARTS``, for sandboxes that have few under way: two that fill all refuse no third's."""
FEW_STARTS = 4

_STATUS = {
    ProcessState.CREATED: TaskStatus.CREATED,
    ProcessState.STARTING: TaskStatus.CREATED,
    ProcessState.RUNNING: TaskStatus.RUNNING,
    ProcessState.PAUSED: TaskStatus.PAUSED,
    ProcessState.STOPPED: TaskStatus.STOPPED,
}


class TaskService:
    """Implements ``sandbox_api.interface.TaskService``."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        containers: ContainerManager,
        execs: Execs,
        preparations: Preparations,
        signals: Signals,
        starter: Starter,
        forkserver: ForkserverClient,
        relay: RelayClient,
        logger: LoggerClient,
        events: TaskEvents,
        counters: Counters | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._containers = containers
        self._execs = execs
        self._preparations = preparations
        self._signals = signals
        self._starter = starter
        self._forkserver = forkserver
        self._relay = relay
        self._logger = logger
        self._events = events
        self._starts: Counter[tuple[str, str]] = Counter()  # under way, by sandbox
        self._counters = counters or Counters()

    async def create(self, namespace: str, new: NewTask) -> int:
        """Prepare a container in a ready sandbox."""
        self._registry.new_container(namespace, new.id)
        with _about(new.id):
            container = await self._containers.make(namespace, new)
        log.info("created %s sandbox=%s bundle=%s", new.id, container.sandbox_id, new.bundle)
        self._events.created(container, new.rootfs)
        return 0

    async def exec(self, namespace: str, new: NewExec) -> None:
        """Prepare a process in a running container."""
        container = self._registry.container(namespace, new.container_id)
        check_id("exec", new.exec_id)
        prepared = self._store.prepared_exec(namespace, new.container_id, new.exec_id)
        name = f"{new.container_id}/{new.exec_id}"
        async with self._holding(container):
            container.init.require("exec in it", ProcessState.RUNNING)
            if new.exec_id in (container.execs or {}):
                raise AlreadyExists(f"container {name}: an exec of this id exists")
            with _about(name):
                spec = new.spec or (prepared.new.spec if prepared else b"")
                terminal = oci.parse_exec(spec).terminal
                streams.check(new.stdio)
            stdio = new.stdio
            if prepared and not (stdio.stdin or stdio.stdout or stdio.stderr):
                stdio = prepared.new.stdio
            if terminal and not stdio.terminal:
                stdio = Stdio(stdio.stdin, stdio.stdout, stdio.stderr, True)
            process = Process(0, name, new.exec_id, stdio)
            self._execs.add(container, process, spec)
        log.debug("added %s", name)

    async def start(self, namespace: str, task_id: str, exec_id: str, hold_stdin: bool = False) -> int:
        """Run a created process. Raises ``ResourceExhausted`` at once where too many starts are under way."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        key = container.namespace, container.sandbox_id
        total = self._starts.total()
        if total >= MAX_STARTS + (SPARE_STARTS if self._starts[key] < FEW_STARTS else 0):
            raise TooManyCalls(f"container {process.name}: {total} starts are under way: try again later")
        if self._starts[key] >= MAX_STARTS_OF_A_SANDBOX:
            bound = f"{MAX_STARTS_OF_A_SANDBOX} starts of its sandbox are under way"
            raise TooManyCalls(f"container {process.name}: {bound}: try again later")
        self._starts[key] += 1
        try:
            with self._counters.stages["ready"].time():
                return await self._start(container, process, hold_stdin)
        finally:
            self._starts[key] -= 1
            if not self._starts[key]:
                del self._starts[key]

    async def _start(self, container: Container, process: Process, hold_stdin: bool) -> int:
        async with self._holding(container, process):
            process.require("start", ProcessState.CREATED)
            sandbox = self._registry.sandbox(container.namespace, container.sandbox_id)
            sandbox.require("start a container in it", SandboxState.READY)
            if process.exec_id:
                container.init.require("exec in it", ProcessState.RUNNING)
            process.state = ProcessState.STARTING
            try:
                with _about(process.name):
                    process.pid = await self._starter.start(sandbox, container, process, hold_stdin)
            except BaseException:
                process.state, process.pumped = ProcessState.CREATED, False
                self._execs.start_failed(container, process)
                raise
            process.state, process.start_time = ProcessState.RUNNING, proc.start_time(process.pid)
            try:
                self._store.update_process(process)
            except StoreFailed as error:
                with suppress(NotFound, Unavailable):  # it has ended by itself, or its forkserver died with the start
                    await self._forkserver.kill(process.instance, signal.SIGKILL)
                raise Internal(f"container {process.name}: started, but not recorded ({error}): killed") from None
            self._events.started(container, process)
        log.log(_level(process.exec_id), "started %s pid=%d", process.name, process.pid)
        return process.pid

    async def wait(self, namespace: str, task_id: str, exec_id: str) -> Exit:
        """Answer when the process has ended."""
        _, process = self._registry.process(namespace, task_id, exec_id)
        ended = await process.wait()
        await self._logger.finish(process.instance)
        return ended

    async def state(self, namespace: str, task_id: str, exec_id: str) -> TaskInfo:
        """Describe a process, in any state."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        return _info(container, process)

    async def kill(self, namespace: str, task_id: str, exec_id: str, number: int, everyone: bool) -> None:
        """Send a signal."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        if everyone and not exec_id:
            if not await self._signals.send_all(container, number):
                raise NotFound(f"container {process.name}: every process of it has ended")
        elif not await self._signals.send(container, process, number):
            raise NotFound(f"container {process.name}: the process has ended")

    async def delete(self, namespace: str, task_id: str, exec_id: str) -> TaskInfo:
        """Delete a process that does not run; with the init process, the container and its execs."""
        container, process = self._registry.process(namespace, task_id, exec_id)
        async with self._holding(container, process):
            process.require("delete", ProcessState.CREATED, ProcessState.STOPPED)
            if exec_id:
                self._execs.remove(container, process)
            else:
                await self._signals.end_execs(container)
                await self._containers.remove(container)
                await self._preparations.spend(container)
                self._events.deleted(container, process)
        log.log(_level(exec_id), "deleted %s", process.name)
        return _info(container, process)

    async def pids(self, namespace: str, task_id: str) -> Sequence[int]:
        """List the pids that run; after the container's end, its init process's pid until Delete.

        Never an empty list: containerd takes it for a container that is lost, and forgets its exit status, and
        iSulad's shim library takes the first element without looking.
        """
        container = self._registry.container(namespace, task_id)
        alive = [process.pid for process in container.alive()]
        if not alive and not (container.init.exit and container.init.pid):
            raise FailedPrecondition(f"{task_id}: cannot list its processes: it was never started")
        return alive or [container.init.pid]

    async def connect(self, namespace: str, task_id: str) -> Connection:
        """Name the processes behind a container: the sandboxer and the init process."""
        container = self._registry.container(namespace, task_id)
        return Connection(os.getpid(), container.init.pid, __version__)

    async def stats(self, namespace: str, task_id: str) -> Usage:
        """Measure what a container uses, in any state."""
        return self._containers.usage(self._registry.container(namespace, task_id))

    async def close_io(self, namespace: str, task_id: str, exec_id: str) -> None:
        """End a process's standard input, after what was written to it. Done where the process has ended.

        Before Start, or while that is under way, it is kept for the start, as runc's shim opens the input at Create.
        """
        _, process = self._registry.process(namespace, task_id, exec_id)
        if process.pumped:
            await self._relay.close_input(process.instance)
        elif process.state in (ProcessState.CREATED, ProcessState.STARTING):
            process.input_closed = True

    async def resize_pty(self, namespace: str, task_id: str, exec_id: str, width: int, height: int) -> None:
        """Set the size of a running process's terminal."""
        _, process = self._registry.process(namespace, task_id, exec_id)
        process.require("resize its terminal", *ALIVE)
        if not process.stdio.terminal:
            raise FailedPrecondition(f"container {process.name}: it has no terminal")
        if not (0 <= width < 1 << 16 and 0 <= height < 1 << 16):
            raise InvalidArgument(f"container {process.name}: invalid terminal size {width}x{height}")
        await self._relay.resize(process.instance, width, height)

    async def pause(self, namespace: str, task_id: str) -> None:
        """Freeze every process of a running container."""
        container = self._registry.container(namespace, task_id)
        async with self._holding(container):
            container.init.require("pause", ProcessState.RUNNING)
            with _about(task_id):
                cgroup = self._containers.own_cgroup(container)
                cgroup.freeze()
                try:
                    if not await cgroup.wait_frozen(True, FREEZE_SECONDS):
                        raise Internal(f"it does not freeze within {FREEZE_SECONDS:g} s")
                    if container.init.exit or any(proc.kill_pending(each.pid) for each in container.alive()):
                        raise FailedPrecondition("it was killed meanwhile")
                    self._set_state(container, ProcessState.PAUSED)
                except BaseException:
                    cgroup.thaw()
                    raise
                self._containers.record_cgroup(container)
            self._events.paused(container)

    async def resume(self, namespace: str, task_id: str) -> None:
        """Thaw a paused container."""
        container = self._registry.container(namespace, task_id)
        async with self._holding(container):
            container.init.require("resume", ProcessState.PAUSED)
            with _about(task_id):
                cgroup = self._containers.own_cgroup(container)
                cgroup.thaw()
                if not await cgroup.wait_frozen(False, FREEZE_SECONDS):
                    raise Internal(f"it does not thaw within {FREEZE_SECONDS:g} s")
                self._set_state(container, ProcessState.RUNNING)
                self._containers.record_cgroup(container)
            self._events.resumed(container)

    async def update(self, namespace: str, task_id: str, resources: bytes) -> None:
        """Change the limits of a container that has not ended."""
        container = self._registry.container(namespace, task_id)
        async with self._holding(container):
            container.init.require("update", ProcessState.CREATED, ProcessState.RUNNING, ProcessState.PAUSED)
            with _about(task_id):
                asked = Resources.parse(oci.json_object(resources, "resources"))
                self._containers.update(container, asked)
            if asked.memory_limit is not None:
                await self._bound_again(container, asked.memory_limit)
        log.info("updated %s", task_id)

    async def _bound_again(self, container: Container, memory_limit: int) -> None:
        """Have linear memories that are there already end where the new limit says."""
        for process in container.alive():
            pages = wasi.max_pages(memory_limit) or linear_memory.MOST_PAGES
            if not await asyncio.to_thread(linear_memory.set_bound, process.pid, process.start_time, pages):
                log.warning(
                    "%s: its linear memory keeps the bound of its start, as its engine has no other; the new limit is "
                    "enforced",
                    process.name,
                )

    @asynccontextmanager
    async def _holding(self, container: Container, process: Process | None = None) -> AsyncIterator[None]:
        """Hold a container's lock. Raises ``NotFound`` where it, or this process of it, was deleted before."""
        async with container.lock:
            self._registry.still_there(container, process)
            yield

    def _set_state(self, container: Container, state: ProcessState) -> None:
        alive = container.alive()
        self._store.update_processes([replace(process, state=state) for process in alive])
        for process in alive:
            process.state = state


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Name this container in errors raised inside."""
    try:
        yield
    except SandboxerError as error:
        raise type(error)(f"container {name}: {error}") from None


def _level(exec_id: str) -> int:
    """The level to log a process at: execs are for debugging alone, since a probe runs one every few seconds."""
    return logging.DEBUG if exec_id else logging.INFO


def _info(container: Container, process: Process) -> TaskInfo:
    status = _STATUS[process.state]
    return TaskInfo(container.id, process.exec_id, container.bundle, process.pid, status, process.stdio, process.exit)
