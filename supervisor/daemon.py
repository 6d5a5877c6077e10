"""The sandboxer daemon: puts the parts together, serves, and ends in order."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_api import calls, grpc_server
from sandbox_api.dialects.dialect import Host
from sandbox_api.errors import SandboxerError
from sandbox_api.events import Publisher
from sandbox_api.task_methods import TaskMethods
from workers import relay_protocol
from workers.greeting import Filters

from . import __version__, cgroups
from .aot.cache import CacheUnusable
from .aot.choice import EngineChoice
from .aot.policy import Aot
from .aot.terms import Level
from .host import folders, linux, sockets
from .host.counters import Counters
from .ipc.channel import HelperFailed, socket_path
from .ipc.forkserver import ForkserverClient
from .ipc.logger import LoggerClient
from .ipc.relay import Kept, RelayClient
from .lifecycle import liveness
from .lifecycle.containers import ContainerManager
from .lifecycle.events import TaskEvents
from .lifecycle.execs import Execs
from .lifecycle.exits import ExitRecorder
from .lifecycle.forkserver import ForkserverManager
from .lifecycle.module_images import ModuleImages
from .lifecycle.preparations import Preparations
from .lifecycle.recovery import Recovery
from .lifecycle.signals import Signals
from .lifecycle.start import Starter
from .model.registry import Registry
from .model.sandbox import SandboxState
from .options import Options
from .seccomp.allowed import worker_filters
from .seccomp.library import SeccompMissing
from .servers import Servers
from .services.auto_remove import AutoRemove
from .services.given_up import GivenUp
from .services.inspection import Inspection
from .services.sandboxes import SandboxService
from .services.tasks import TaskService
from .services.unstarted import Unstarted
from .state import file as state_file
from .state.store import Store

if TYPE_CHECKING:
    from .services.metrics import Sources

log = logging.getLogger(__name__)

START_SECONDS = 1.0
"""Seconds that a daemon that ends waits for starts that are under way. Then they are undone."""


class CannotStart(Exception):
    """The daemon lacks something it needs; the text is one line that says what, and what to do."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a daemon that its three phases share."""

    counters: Counters
    forkserver: ForkserverManager
    relay: RelayClient
    logger: LoggerClient
    aot: EngineChoice
    tasks: TaskService
    sandboxes: SandboxService
    recovery: Recovery
    auto_remove: AutoRemove
    unstarted: Unstarted
    inspection: Inspection
    images: ModuleImages
    cgroup_version: int


class Daemon:
    """One sandboxer."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stopping = asyncio.Event()
        self._restarting = False
        self._background: set[asyncio.Task[None]] = set()
        self._servers = Servers(options)
        self._registry = Registry()
        self._publisher = _publisher(options)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ``CannotStart``."""
        if os.geteuid() != 0:
            raise CannotStart("the sandboxer has to run as root: it mounts, and gives containers their users")
        if not linux.has_mount_setattr():
            raise CannotStart(
                "this kernel has no mount_setattr(2), without which mounts can be swapped: boot 5.12 or later"
            )
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
        cleanup.push_async_exit(self._leave)
        self._claim(cleanup)
        parts = self._build(cleanup)
        kept = await self._take_over(cleanup, parts)
        began = time.perf_counter()
        engine = await self._recover(cleanup, parts)
        parts.counters.recovery_seconds = time.perf_counter() - began
        await self._serve(cleanup, parts, kept, engine)
        if not self._restarting:
            liveness.notify("STOPPING=1")
        log.info("restarting" if self._restarting else "stopping")
        asyncio.get_running_loop().call_later(START_SECONDS, parts.forkserver.client.give_up_starts)
        await asyncio.gather(calls.all_done(), *(server.stop() for server in self._servers.grpc))

    def _claim(self, cleanup: AsyncExitStack) -> None:
        """Take signals, folder and address: what two daemons cannot share. Raises ``CannotStart``."""
        loop = asyncio.get_running_loop()
        os.umask(0o022)  # guests inherit it, and folders are made in their roots; what is ours says who may read it
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
            cleanup.callback(loop.remove_signal_handler, number)
        if self._options.private:
            loop.add_reader(0, self._stopping.set)
        sockets.check_folder(self._options.folder, Path(socket_path("", "forkserver")).name)
        cleanup.callback(os.close, _lock_folder(self._options.folder, self._options.socket_group))
        linux.become_subreaper()

    def _build(self, cleanup: AsyncExitStack) -> _Parts:
        """Make the parts. Nothing runs yet. Raises ``CannotStart`` or a ``SandboxerError``."""
        folder, registry, counters = str(self._options.folder), self._registry, Counters()
        store = Store(f"{folder}/state.db", self._restart, counters)
        cleanup.callback(store.close)
        hierarchy = cgroups.detect(owner=folder)
        relay = RelayClient(socket_path(folder, "relay"), counters)
        logger = LoggerClient(socket_path(folder, "logger"), self._options.folder / "logs", counters)
        wasmedge = Aot(self._options.aot, counters=counters)
        wasmtime = Aot(self._options.aot, counters=counters, levels=(Level.O2,), digests=wasmedge.digests)
        aot = EngineChoice(wasmedge, wasmtime, self._options.engine)
        events = TaskEvents(self._publisher)
        filters = _filters(self._options.require_confinement)
        client = ForkserverClient(socket_path(folder, "forkserver"), filters, self._options.image_memory, counters)
        signals = Signals(store, client, events)
        execs = Execs(registry, store, events)
        exits = ExitRecorder(registry, store, client, events, signals, execs, logger, counters)
        images = ModuleImages(self._options.image_memory, client, aot, counters)
        forkserver = ForkserverManager(registry, client, exits, [relay, logger], aot, counters, images)
        containers = ContainerManager(folder, registry, store, hierarchy, aot, counters, images)
        preparations = Preparations(folder, registry, store, containers, execs)
        starter = Starter(registry, store, containers, client, relay, logger, aot, counters)
        tasks = TaskService(
            registry, store, containers, execs, preparations, signals, starter, client, relay, logger, events, counters
        )
        sandboxes = SandboxService(
            registry, store, containers, preparations, signals, tasks, str(self._options.task_socket), folder
        )
        auto_remove = AutoRemove(registry, sandboxes)
        events.on_exit.append(auto_remove.ended)
        recovery = Recovery(folder, registry, store, hierarchy, containers, preparations, exits, execs, forkserver)
        inspection = Inspection(registry, store, containers, events, images)
        return _Parts(
            counters,
            forkserver,
            relay,
            logger,
            aot,
            tasks,
            sandboxes,
            recovery,
            auto_remove,
            Unstarted(registry, sandboxes),
            inspection,
            images,
            hierarchy.version,
        )

    async def _take_over(self, cleanup: AsyncExitStack, parts: _Parts) -> list[Kept]:
        """Take clients' connections and listening sockets over from an earlier daemon; make those that are not there.

        Clients may connect from here on; they are served when all is recovered. Raises ``SocketTaken``.
        """
        cleanup.callback(parts.relay.close)
        kept = await parts.relay.take()

        def undo(kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
            if (
                error is not None and parts.relay.pid and not self._restarting
            ):  # a relay that we started holds no client's yet
                parts.relay.unlink()
                parts.relay.shut_down()

        cleanup.push(undo)
        for number, path in self._options.listeners.items():
            parts.relay.listen(number, path)
            sockets.give_to_group(path, self._options.socket_group)
        return kept

    async def _recover(self, cleanup: AsyncExitStack, parts: _Parts) -> str:
        """Join what an earlier daemon left, and start what is missing; the engines' names and versions."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, parts.forkserver.orphans.collect_children)
        cleanup.callback(loop.remove_signal_handler, signal.SIGCHLD)
        cleanup.callback(parts.forkserver.close)
        cleanup.callback(parts.logger.close)
        parts.recovery.load()
        inventory = await parts.forkserver.take_over()
        if not inventory.landlock:
            self._lacking("this kernel has no Landlock: workers are not kept from the host's files by it")
        if inventory.no_empty_root:
            reason = os.strerror(inventory.no_empty_root)
            self._lacking(f"workers have no empty root ({reason}): native code in them could read the host's metadata")
        cleanup.push_async_callback(parts.aot.close)
        await parts.aot.start(inventory.engines)
        await parts.recovery.reconcile(inventory)
        await parts.recovery.resume_logs(parts.logger)
        parts.auto_remove.look_over()
        cleanup.push_async_callback(self._disconnect, parts)
        return ", ".join(f"{name} {version}" for name, version in inventory.engines.items())

    async def _serve(self, cleanup: AsyncExitStack, parts: _Parts, kept: list[Kept], engine: str) -> None:
        """Open the sockets, and serve until a signal says to stop."""
        options = self._options
        if self._publisher is not None:
            self._spawn(self._publisher.run())
        methods = TaskMethods(parts.tasks, parts.cgroup_version).table()
        containerd = sockets.CONTAINERD_EVENTS if options.events in ("auto", "off") else options.events
        given_up = GivenUp(options.folder / "given-up", self._registry, parts.tasks, parts.sandboxes, containerd)
        await given_up.obey()
        await given_up.end_forgotten(connections_lost=parts.relay.began and not kept)
        self._spawn(given_up.watch())
        servers = self._servers
        await servers.serve_ttrpc(cleanup, parts.relay, methods, kept)
        cleanup.push_async_callback(calls.all_done)
        parts.inspection.engine = engine
        await servers.serve_info(cleanup, parts.inspection)
        await servers.serve_grpc(parts.relay, methods, relay_protocol.GRPC_TASKS)
        sandbox_methods = grpc_server.sandbox_methods(Host(parts.sandboxes, parts.cgroup_version))
        await servers.serve_grpc(parts.relay, sandbox_methods, relay_protocol.SANDBOXES)
        if options.metrics:
            await servers.serve_metrics(cleanup, self._sources(parts, [methods, sandbox_methods]))
        log.info(
            "wasm-sandboxer %s serves on %s, tasks on %s, with %s",
            __version__,
            options.listen,
            options.task_socket,
            engine,
        )
        liveness.notify(f"READY=1\nSTATUS={liveness.status(self._registry)}")
        if options.renew:
            self._spawn(parts.forkserver.renew_when_idle(options.renew))
        self._spawn(parts.unstarted.run())
        self._spawn(liveness.tell(self._registry, parts.forkserver.client))
        await self._stopping.wait()

    def _sources(self, parts: _Parts, methods: list[calls.Methods]) -> Sources:
        from .services.metrics import Sources  # only where they are wanted: its library is large

        def helpers() -> dict[str, int]:
            pids = {"supervisor": os.getpid(), "forkserver": parts.forkserver.client.pid}
            pids |= {"relay": parts.relay.peer, "logger": parts.logger.peer}
            return {name: pid for name, pid in pids.items() if pid}

        def lost() -> int:
            return self._publisher.lost if self._publisher is not None else 0

        engine, images = parts.inspection.engine, parts.images.totals
        return Sources(self._registry, parts.counters, methods, helpers, lost, engine, images)

    async def _leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Exit at once, last of all, with all of gRPC's connections (see its ``Server.stop``)."""
        if error is not None and not self._restarting:
            for server in self._servers.grpc:
                await server.inner.stop(0)
            return
        if self._options.private and not self._restarting:
            folders.remove(str(self._options.folder))
        logging.shutdown()
        if self._restarting:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        os._exit(0)

    def _restart(self) -> None:
        """Stop serving, and start again in this process: the state in memory has no record any more."""
        self._restarting = True
        self._stopping.set()

    def _lacking(self, what: str) -> None:
        """Report a kind of confinement that this host lacks. Raises ``CannotStart`` where it is required."""
        if self._options.require_confinement:
            raise CannotStart(f"{what}: boot one that has it, or run without --require-confinement")
        log.warning("%s", what)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _disconnect(self, parts: _Parts) -> None:
        """Leave instances to run, and the helpers with them; without instances, end the helpers, too."""
        if self._options.private:
            for namespace, sandbox_id in list(self._registry.sandboxes):
                await parts.sandboxes.shutdown(namespace, sandbox_id)
        if self._publisher is not None:
            await self._publisher.drain(1.0)
        for task in list(self._background):
            task.cancel()
        running = sum(len(container.alive()) for container in self._registry.containers.values())
        if running:
            log.info("%d instances keep running", running)
        else:
            parts.forkserver.shut_down()
            parts.logger.shut_down()
        if all(sandbox.state is SandboxState.NOTREADY for sandbox in self._registry.sandboxes.values()):
            parts.relay.unlink()
            parts.relay.shut_down()


def _publisher(options: Options) -> Publisher | None:
    """Make the forwarder of events: to containerd, where the socket named or else its usual one is there."""
    if options.events == "off" or (options.events == "auto" and options.private):
        return None
    if options.events == "auto":
        return Publisher(sockets.CONTAINERD_EVENTS, optional=True)
    return Publisher(options.events)


def _filters(required: bool) -> Filters:
    """Build the workers' seccomp filters.

    Raises ``CannotStart`` where they are required and cannot be built.
    """
    try:
        return worker_filters()
    except (SeccompMissing, OSError) as error:
        if required:
            raise CannotStart(f"{error} (or run without --require-confinement)") from None
        log.warning("workers run without seccomp: %s", error)
        return Filters()


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
        raise CannotStart(f"{folder}: another sandboxer uses it: stop it or choose another --dir") from None
    return lock
