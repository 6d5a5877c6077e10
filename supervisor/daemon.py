"""The sandboxer daemon: puts the parts together, serves, and ends in order."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sandbox_api import calls, grpc_server
from sandbox_api.dialects.dialect import Host
from sandbox_api.errors import SandboxerError
from sandbox_api.events import Publisher
from sandbox_api.task_methods import TaskMethods
from sandbox_api.ttrpc.server import Server

from . import __version__, cgroups
from .aot.cache import CacheUnusable
from .aot.policy import Aot
from .aot.terms import Settings
from .host import linux, sockets
from .host.systemd import notify
from .ipc.channel import HelperFailed
from .ipc.forkserver import ForkserverClient
from .ipc.relay import RelayClient
from .lifecycle import liveness
from .lifecycle.containers import ContainerManager
from .lifecycle.events import TaskEvents
from .lifecycle.exits import ExitRecorder
from .lifecycle.preparations import Preparations
from .lifecycle.recovery import Recovery
from .lifecycle.signals import Signals
from .model.container import Container
from .model.process import Process
from .model.registry import Registry
from .oci import seccomp
from .services.sandboxes import SandboxService
from .services.tasks import TaskService
from .state import file as state_file
from .state.store import Store

log = logging.getLogger(__name__)


class CannotStart(Exception):
    """What the daemon needs is not there; the text is one line that says what and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """Where the daemon works."""

    listen: Path
    """Socket of the Sandbox API."""
    folder: Path
    """State, mounts, the helpers' sockets, and the Task API's."""
    aot: Settings
    events: str = ""
    """Socket to forward events to; "" is nobody."""
    socket_group: int | None = None
    """Group that may use the APIs beside root."""
    require_confinement: bool = False
    """Refuse to run where the kernel or a library lacks what confines workers."""

    @property
    def task_socket(self) -> Path:
        """Of the Task API over ttrpc."""
        return self.folder / "task.sock"

    @property
    def grpc_task_socket(self) -> Path:
        """Of the Task API over gRPC."""
        return self.folder / "task-grpc.sock"


class Daemon:
    """One sandboxer."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stopping = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._reconnecting: asyncio.Task[None] | None = None
        self._grpc: list[grpc_server.Server] = []
        self._ending = False
        """The helpers were told to go."""

        folder = options.folder
        self._registry = Registry()
        self._publisher = Publisher(options.events) if options.events else None
        self._events = TaskEvents(self._publisher)
        self._forkserver = ForkserverClient(
            str(folder / "forkserver.sock"),
            _filters(options.require_confinement),
            lambda exits: self._exits.record(exits),
            self._lost,
        )
        self._relay = RelayClient(str(folder / "relay.sock"))
        self._aot = Aot(options.aot)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ``CannotStart``."""
        if os.geteuid() != 0:
            raise CannotStart("the sandboxer has to run as root: it mounts, and gives containers their users")
        try:
            async with AsyncExitStack() as cleanup:
                await self._run(cleanup)
        except (sockets.SocketTaken, HelperFailed, CacheUnusable) as error:
            raise CannotStart(str(error)) from None
        except state_file.Foreign as error:
            raise CannotStart(f"{error}: run the sandboxer that wrote it, or have that one drained first") from None
        except SandboxerError as error:
            raise CannotStart(str(error)) from None
        except OSError as error:
            raise CannotStart(f"{error.filename or self._options.folder}: {error.strerror}") from None

    async def _run(self, cleanup: AsyncExitStack) -> None:
        options = self._options
        loop = asyncio.get_running_loop()
        cleanup.push_async_exit(self._leave)
        os.umask(0o022)  # guests inherit it, and folders are made in their roots; what is ours says who may read it
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
            cleanup.callback(loop.remove_signal_handler, number)
        cleanup.callback(os.close, _lock_folder(options.folder, options.socket_group))
        sockets.claim(options.listen)
        linux.become_subreaper()

        store = Store(str(options.folder / "state.db"))
        cleanup.callback(store.close)
        hierarchy = cgroups.detect()
        self._signals = Signals(store, self._forkserver)
        self._exits = ExitRecorder(self._registry, store, self._forkserver, self._ended)
        loop.add_signal_handler(signal.SIGCHLD, self._exits.collect_children)
        cleanup.callback(loop.remove_signal_handler, signal.SIGCHLD)
        containers = ContainerManager(str(options.folder), self._registry, store, hierarchy, self._aot)
        preparations = Preparations(str(options.folder), self._registry, store, containers)
        tasks = TaskService(
            self._registry,
            store,
            containers,
            self._signals,
            self._forkserver,
            self._relay,
            self._events,
            self._aot,
        )
        controller = SandboxService(
            self._registry, store, containers, preparations, self._signals, tasks, str(options.task_socket)
        )

        cleanup.callback(self._forkserver.close)
        cleanup.callback(self._relay.close)
        recovery = Recovery(self._registry, store, hierarchy, containers, preparations, self._exits, self._forkserver)
        recovery.load()
        inventory = await self._forkserver.connect()
        if not inventory.landlock:
            self._lacking("this kernel has no Landlock: workers are not kept from the host's files by it")
        cleanup.push_async_callback(self._aot.close)
        await self._aot.start(inventory.engine)
        await recovery.reconcile(inventory)
        cleanup.push_async_callback(self._end)
        if self._publisher is not None:
            self._spawn(self._publisher.run())

        methods = TaskMethods(tasks, hierarchy.version).table()
        ttrpc = Server(methods, self._relay)
        self._relay.on_return = ttrpc.keep_again
        cleanup.push_async_callback(ttrpc.close)
        for kept in await self._relay.take():
            ttrpc.resume(kept.key, socket.socket(fileno=kept.fd), kept.note, kept.calls)
        await ttrpc.start(sockets.listen(options.task_socket))
        sockets.give_to_group(options.task_socket, options.socket_group)
        cleanup.callback(options.task_socket.unlink, missing_ok=True)
        cleanup.push_async_callback(calls.all_done)
        await self._serve_grpc(cleanup, methods, options.grpc_task_socket)
        await self._serve_grpc(
            cleanup, grpc_server.sandbox_methods(Host(controller, hierarchy.version)), options.listen
        )
        log.info(
            "wasm-sandboxer %s serves on %s, tasks on %s, WasmEdge %s",
            __version__,
            options.listen,
            options.task_socket,
            inventory.engine,
        )
        notify(f"READY=1\nSTATUS={liveness.status(self._registry)}")
        self._spawn(liveness.tell(self._registry, self._forkserver))
        await self._stopping.wait()
        notify("STOPPING=1")
        log.info("ending")
        await asyncio.gather(calls.all_done(), *(server.stop() for server in self._grpc))

    async def _serve_grpc(self, cleanup: AsyncExitStack, methods: grpc_server.Methods, path: Path) -> None:
        server = grpc_server.Server(methods)
        sockets.claim(path)
        with sockets.private():
            server.inner.add_insecure_port(f"unix:{path}")
        cleanup.callback(path.unlink, missing_ok=True)
        sockets.give_to_group(path, self._options.socket_group)
        self._grpc.append(server)
        await server.inner.start()

    async def _leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """The last thing of all: be gone, with all of gRPC's connections (see its ``Server.stop``)."""
        if error is None:
            logging.shutdown()
            os._exit(0)
        for server in self._grpc:
            await server.inner.stop(0)

    def _lacking(self, what: str) -> None:
        """Say what confinement this host cannot give. Raises ``CannotStart`` where it is required."""
        if self._options.require_confinement:
            raise CannotStart(f"{what}: boot one that has it, or run without --require-confinement")
        log.warning("%s", what)

    def _ended(self, container: Container, process: Process) -> None:
        """The reaper's word that a process has ended."""
        if container.cgroup is not None and process.exit is not None and process.exit.status == 128 + signal.SIGKILL:
            kills = container.cgroup.oom_kills()
            if kills > container.oom_kills:
                container.oom_kills = kills
                log.warning("%s was killed for memory", process.name)
                self._events.out_of_memory(container)
        self._events.ended(container, process)
        if not process.exec_id and container.execs:
            self._spawn(self._signals.end_execs(container))

    def _lost(self) -> None:
        """The forkserver died. What it ran goes on, as our children if we started it, or else as init's."""
        if self._ending:
            return
        if self._forkserver.answers():  # it only hung up on us: it still looks after its own
            log.error("the forkserver hung up")
            self._reconnect_soon()
            return
        log.error("the forkserver died")
        known = {self._relay.pid, *self._forkserver.pids, *self._aot.pids}
        for container in self._registry.containers.values():
            for process in container.alive():
                known.add(process.pid)
                self._exits.watch(process)
        self._exits.watch_starts()
        for child in psutil.Process().children():
            if child.pid not in known:
                log.warning("killing pid %d, whose start was lost with the forkserver", child.pid)
                child.kill()
        self._reconnect_soon()

    def _reconnect_soon(self) -> None:
        """Begin to reconnect, unless that is under way: it tries again by itself."""
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = self._spawn(self._reconnect())

    async def _reconnect(self) -> None:
        """A new forkserver in place of one that died."""
        while not self._stopping.is_set():
            try:
                inventory = await self._forkserver.connect()
                self._forkserver.exited(inventory.ended)
                await self._aot.start(inventory.engine)
            except (CacheUnusable, HelperFailed, SandboxerError, OSError, TimeoutError, RuntimeError) as error:
                log.error("no new forkserver: %s", error)
                await asyncio.sleep(1)
                continue
            if self._forkserver.connected:  # or it died again before we got to hear of it
                log.info("a forkserver is up")
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _end(self) -> None:
        """Let go. Instances go on, and so do the helpers while there are some; the next daemon finds them."""
        if self._publisher is not None:
            await self._publisher.drain(1.0)
        for task in list(self._background):
            task.cancel()
        running = sum(len(container.alive()) for container in self._registry.containers.values())
        if running:
            log.info("%d instances go on without us", running)
        else:
            self._ending = True
            self._forkserver.shut_down()
            self._relay.shut_down()


def _filters(required: bool) -> tuple[bytes, bytes, bytes]:
    """The workers' seccomp filters, without and with a network, and the names of system calls.

    Raises ``CannotStart`` where they are required and cannot be built.
    """
    try:
        built = seccomp.build()
    except (seccomp.SeccompMissing, OSError) as error:
        if required:
            raise CannotStart(f"{error} (or run without --require-confinement)") from None
        log.warning("workers run without seccomp: %s", error)
        return b"", b"", b""
    return built.without_network, built.with_network, built.names


def _lock_folder(folder: Path, gid: int | None) -> int:
    """Make the folder ours alone, but for a group's way to the sockets in it; the descriptor that holds it.

    Raises ``CannotStart``.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if gid is not None:
        os.chown(folder, -1, gid)
    folder.chmod(0o700 if gid is None else 0o710)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CannotStart(f"{folder}: another sandboxer works in it: stop it or choose another --dir") from None
    return lock
