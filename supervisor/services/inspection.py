"""Everything the daemon has, for people and their tools: read-only, as JSON over HTTP on --dir/info.sock.

Lists are made in slices, so that thousands of containers hold no start up; what only the state file knows, such as a
container's name in its engine, is read once and remembered for a while.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from typing import Any

from sandbox_api.errors import FailedPrecondition, InvalidArgument, NotFound, SandboxerError, Unavailable

from .. import __version__
from ..host.http import LINES, TEXT, Answer
from ..lifecycle.containers import ContainerManager
from ..lifecycle.events import TaskEvents
from ..lifecycle.module_images import ModuleImages
from ..model.container import Container
from ..model.process import ALIVE, Process
from ..model.registry import Registry
from ..model.sandbox import Sandbox
from ..state.store import Store
from . import makers

SLICE_SECONDS = 0.001
"""Seconds of work on a list before the rest of the daemon's work has its turn: a start wants a few."""
_REMEMBERED = 4096
_TICKS = os.sysconf("SC_CLK_TCK")
_STATUS: dict[type[SandboxerError], str] = {
    NotFound: "404 Not Found",
    InvalidArgument: "400 Bad Request",
    FailedPrecondition: "409 Conflict",
    Unavailable: "503 Service Unavailable",
}

Row = dict[str, Any]


class Inspection:
    """Answers questions about sandboxes and containers."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        containers: ContainerManager,
        events: TaskEvents,
        images: ModuleImages,
    ) -> None:
        self._registry = registry
        self._store = store
        self._containers = containers
        self._events = events
        self._images = images
        self.engine = ""
        """Name and version."""
        self._origins: OrderedDict[int, makers.Origin] = OrderedDict()  # by instance of the init process
        self._boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    async def answer(self, path: str, query: dict[str, str]) -> Answer:
        """The answer to ``GET path?query``."""
        try:
            match path.strip("/").split("/"):
                case ["node"]:
                    return Answer(_line(self._node()))
                case ["pods"]:
                    return Answer(_lines(map(self._pod, list(self._registry.sandboxes.values()))), LINES)
                case ["containers"]:
                    return Answer(_lines(map(self._row, self._chosen(query))), LINES)
                case ["containers", namespace, container_id]:
                    return Answer(_line(self._whole(self._registry.container(namespace, container_id))))
                case ["stats"]:
                    return Answer(_lines(map(self._usage, self._chosen(query))), LINES)
                case ["events"]:
                    return Answer(self._happened("follow" in query), LINES)
        except SandboxerError as error:
            status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), "500 Internal Error")
            return Answer(f"{error}\n".encode(), TEXT, status)
        return Answer(f"{path[:200]}: there is nothing of that name\n".encode(), TEXT, "404 Not Found")

    def _chosen(self, query: dict[str, str]) -> list[Container]:
        """Running ones, or ``all``; or those that match a ``name``: [NAMESPACE/]ID, or an id's beginning."""
        every = self._registry.containers
        if "name" not in query:
            return [each for each in list(every.values()) if "all" in query or each.init.state in ALIVE]
        namespace, _, name = query["name"].rpartition("/")
        here = [key for key in every if key[0] == namespace or not namespace]
        found = [key for key in here if key[1] == name] or [key for key in here if name and key[1].startswith(name)]
        if not found:
            raise NotFound(f"container {query['name'][:200]!r}: there is none (wasm-sandboxer ps -a lists them all)")
        return [every[key] for key in found]

    def _node(self) -> Row:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "engine": self.engine,
            "pods": len(self._registry.sandboxes),
            "containers": len(self._registry.containers),
            "images_of_modules": self._images.row(),
        }

    def _row(self, container: Container) -> Row:
        """A container in a list."""
        init = container.init
        origin = self._origin(container)
        return {
            "namespace": container.namespace,
            "id": container.id,
            "pod": container.sandbox_id,
            "maker": origin.maker,
            "name": origin.name,
            "image": origin.image,
            "command": origin.command,
            "restarts": origin.restarts,
            "execs": len(container.execs or ()),
            "oom_kills": container.oom_kills,
            **self._process(init),
        }

    def _process(self, process: Process) -> Row:
        engine, tier, reason = process.engine
        return {
            "state": process.state.value,
            "pid": process.pid,
            "engine": engine,
            "tier": tier,
            "uncompiled": reason,
            "started_at": round((self._boot + process.start_time / _TICKS) * 1e9) if process.start_time else 0,
            "exit_status": process.exit.status if process.exit else None,
            "exited_at": process.exit.at if process.exit else 0,
            "terminal": process.stdio.terminal,
        }

    def _pod(self, sandbox: Sandbox) -> Row:
        running = sum(each.init.state in ALIVE for each in sandbox.containers.values())
        return {
            "namespace": sandbox.namespace,
            "id": sandbox.id,
            "maker": makers.of_sandbox(sandbox) or self._maker(sandbox),
            "name": makers.pod_name(sandbox.labels),
            "state": sandbox.state.value,
            "created_at": sandbox.created_at,
            "exited_at": sandbox.exited_at,
            "netns": sandbox.netns,
            "containers": len(sandbox.containers),
            "running": running,
            "labels": sandbox.labels,
        }

    def _maker(self, sandbox: Sandbox) -> str:
        """The engine that made it, as its containers' annotations say."""
        return next((self._origin(each).maker for each in sandbox.containers.values()), makers.UNKNOWN)

    def _whole(self, container: Container) -> Row:
        """Everything about one container."""
        recorded = self._store.recorded(container)
        sandbox = self._registry.sandboxes.get((container.namespace, container.sandbox_id))
        stdio = container.init.stdio
        plan = recorded.plan
        return {
            **self._row(container),
            "bundle": container.bundle,
            "root": plan.root,
            "streams": {"stdin": stdio.stdin, "stdout": stdio.stdout, "stderr": stdio.stderr},
            "log": self._origin(container).log,
            "cgroup": container.cgroup.state if container.cgroup else "",
            "processes": [{"exec_id": each.exec_id, **self._process(each)} for each in container.processes()],
            "sandbox": self._pod(sandbox) if sandbox else None,
            "spec": json.loads(recorded.config),
        }

    def _usage(self, container: Container) -> Row:
        used = self._containers.usage(container)
        return {
            "namespace": container.namespace,
            "id": container.id,
            "at": used.at,
            "cpu_usec": used.cpu,
            "memory": used.memory,
            "memory_limit": used.memory_limit,
            "memory_peak": used.memory_peak,
            "processes": len(container.alive()),
            "read_bytes": used.read_bytes,
            "written_bytes": used.written_bytes,
            "throttled_usec": used.throttled,
            "oom_kills": container.oom_kills,
        }

    def _origin(self, container: Container) -> makers.Origin:
        instance = container.init.instance
        origin = self._origins.get(instance)
        if origin is None:
            config = json.loads(self._store.recorded(container).config)
            sandbox = self._registry.sandboxes.get((container.namespace, container.sandbox_id))
            origin = self._origins[instance] = makers.origin(container, sandbox, config)
            if len(self._origins) > _REMEMBERED:
                self._origins.popitem(last=False)
        return origin

    async def _happened(self, follow: bool) -> AsyncIterator[bytes]:
        """Recent events, and with ``follow`` those to come."""
        with self._events.watch() as watcher:
            for event in watcher.past:
                yield _line(event.row())
            while follow:
                yield _line((await watcher.next()).row())


async def _lines(rows: Iterable[Row]) -> AsyncIterator[bytes]:
    """Rows in slices. A container that goes away meanwhile is passed over."""
    part = bytearray()
    began = time.monotonic()
    each = iter(rows)
    while True:
        try:
            part += _line(next(each))
        except StopIteration:
            break
        except (SandboxerError, TypeError, OSError):  # removed, or its record, while we were elsewhere
            continue
        if time.monotonic() - began > SLICE_SECONDS:
            yield bytes(part)
            part.clear()
            await asyncio.sleep(0)
            began = time.monotonic()
    if part:
        yield bytes(part)


def _line(row: Row) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"
