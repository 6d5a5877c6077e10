"""The sandboxer daemon: puts the parts together, serves, and ends in order."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sqlite3
from pathlib import Path

import grpc.aio

from sandbox_api import calls, grpc_server, task_service
from sandbox_api.dialects.dialect import Host
from sandbox_api.errors import SandboxerError
from sandbox_api.ttrpc.server import Server

from . import __version__, cgroups, linux, recovery, sockets
from .container import Container
from .controller import Controller
from .helper import HelperFailed
from .launcher import Launcher
from .notify import notify
from .process import Process
from .reaper import Reaper
from .registry import Registry
from .relay import Relay
from .store import Store
from .tasks import Tasks

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""What instances get between SIGTERM and SIGKILL when the daemon ends."""


class CannotStart(Exception):
    """What the daemon needs is not there; the text is one line that says what and what to do."""


class Daemon:
    """One sandboxer: everything below ``folder``, and the Sandbox API's socket."""

    def __init__(self, listen: Path, folder: Path) -> None:
        self._listen = listen
        self._folder = folder
        self._stopping = asyncio.Event()
        self._lock = -1

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ``CannotStart``."""
        try:
            await self._run()
        except (sockets.SocketTaken, HelperFailed) as error:
            raise CannotStart(str(error)) from None
        except sqlite3.Error as error:
            raise CannotStart(f"{self._folder}/state.db: {error}") from None
        except PermissionError as error:
            raise CannotStart(f"{error.filename}: {error.strerror}: the sandboxer has to run as root") from None
        except OSError as error:
            raise CannotStart(f"{error.filename or self._folder}: {error.strerror}") from None
        finally:
            if self._lock >= 0:
                os.close(self._lock)

    async def _run(self) -> None:
        if os.geteuid() != 0:
            raise CannotStart("the sandboxer has to run as root: it mounts, and gives containers their users")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._make_folder()
        sockets.claim(self._listen)
        linux.become_subreaper()

        registry = Registry()
        store = Store(str(self._folder / "state.db"))
        reaper: Reaper

        def lost() -> None:
            log.error("the forkserver died")
            loop.create_task(self._reconnect(launcher, reaper))

        launcher = Launcher(str(self._folder / "forkserver.sock"), lambda exits: reaper.exits(exits), lost)
        relay = Relay(str(self._folder / "relay.sock"))
        reaper = Reaper(registry, store, launcher.acknowledge, self._ended)
        loop.add_signal_handler(signal.SIGCHLD, reaper.adopted)
        hierarchy = cgroups.detect()
        tasks = Tasks(str(self._folder), registry, store, hierarchy, launcher, relay)
        task_socket = self._folder / "task.sock"
        controller = Controller(registry, store, tasks, str(task_socket))

        inventory = await launcher.connect()
        recovery.reconcile(registry, store, reaper, hierarchy, inventory)
        grpc_api: grpc.aio.Server | None = None
        ttrpc = Server(task_service.TaskMethods(tasks, hierarchy.version).table())
        try:
            await ttrpc.start(sockets.listen(task_socket))
            grpc_api = grpc_server.server(Host(controller, hierarchy.version))
            with sockets.private():
                grpc_api.add_insecure_port(f"unix:{self._listen}")
            await grpc_api.start()
            log.info(
                "wasm-sandboxer %s serves on %s, tasks on %s, WasmEdge %s",
                __version__,
                self._listen,
                task_socket,
                inventory.engine,
            )
            notify("READY=1")
            await self._stopping.wait()
            notify("STOPPING=1")
            log.info("ending")
        finally:
            await self._end(registry, controller)
            if grpc_api is not None:
                await grpc_api.stop(grace=0.5)
            await calls.all_done()
            await ttrpc.close()
            launcher.end()
            launcher.close()
            relay.end()
            relay.close()
            store.close()
            for path in (self._listen, task_socket):
                path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"{self._folder}: another sandboxer works in it: stop it or choose another --dir"
            ) from None

    def _ended(self, container: Container, process: Process) -> None:
        """A process has ended."""

    async def _reconnect(self, launcher: Launcher, reaper: Reaper) -> None:
        """A new forkserver in place of one that died. What it ran is our child now, and goes on."""
        while not self._stopping.is_set():
            try:
                await launcher.connect()
            except (HelperFailed, SandboxerError, OSError, TimeoutError) as error:
                log.error("no new forkserver: %s", error)
                await asyncio.sleep(1)
            else:
                log.info("a new forkserver is up")
                return

    async def _end(self, registry: Registry, controller: Controller) -> None:
        """End every instance, and take down what was mounted for it."""

        async def one(namespace: str, sandbox_id: str) -> None:
            try:
                await controller.stop(namespace, sandbox_id, int(STOP_SECONDS))
                await controller.shutdown(namespace, sandbox_id)
            except SandboxerError as error:
                log.error("sandbox %s: %s", sandbox_id, error)

        await asyncio.gather(*(one(*key) for key in list(registry.sandboxes)))
