"""A sandboxer to measure, with one pod, and a client that has many calls under way on few connections.

A container's bundle holds config.json alone; its root file system is a folder shared by all containers of an image,
as the layers of an unpacked image are. Both are there before any clock runs: they are the engine's work.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from google.protobuf.message import Message

from sandbox_api.proto import controller_pb2, types_pb2
from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.ttrpc import Connection

END_SECONDS = 900  # for tens of thousands of instances to end
AT_ONCE = 64  # calls under way
WAITS = 900  # pending on one connection: the server takes 1,024 calls

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Workload:
    """The parts that containers are made of."""

    rootfs: Path
    args: tuple[str, ...] = ()
    cgroups: bool = False
    """Whether each container has a control group of its own."""


@dataclass(slots=True)
class Task:
    """One container to be, and its bundle."""

    id: str
    bundle: Path
    stdout: str = ""
    stdin: str = ""

    def request(self) -> pb.CreateTaskRequest:
        """The request that creates it."""
        return pb.CreateTaskRequest(id=self.id, bundle=str(self.bundle), stdout=self.stdout, stdin=self.stdin)


@dataclass
class Site:
    """A sandboxer of its own. Use it as a context manager."""

    aot: str = "auto"
    cache: Path | None = None
    """Cache of compiled modules; one of its own where not given."""
    images: str = "on"
    """Whether modules start from images of them loaded."""
    engine: str = "wasmedge"
    """The engine of all that is started."""
    prefix: Sequence[str] = ()
    """A command that becomes the sandboxer, with fewer rights say."""
    daemon: Daemon = field(init=False)
    pod: Pod = field(init=False)
    _up: bool = False

    def __enter__(self) -> Site:
        options = ["--log-level", "info", "--aot", self.aot, "--images", self.images, "--engine", self.engine]
        if self.cache is not None:
            options += ["--cache-dir", str(self.cache)]
        self.daemon = Daemon(*options)
        self.daemon.prefix = list(self.prefix)
        self.daemon.__enter__()
        self.pod = Pod(self.daemon)
        self._up = True
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._up:
                self.shutdown()
        finally:
            self.pod.close()
            self.daemon.__exit__(*exc)

    def shutdown(self) -> None:
        """End the pod and all that runs in it."""
        self._up = False
        self.pod.api.call("Stop", controller_pb2.ControllerStopRequest(sandbox_id=self.pod.id), END_SECONDS)
        self.pod.api.call("Shutdown", controller_pb2.ControllerShutdownRequest(sandbox_id=self.pod.id), END_SECONDS)

    def workload(self, module: Path, *args: str, cgroups: bool = False, files: Sequence[Path] = ()) -> Workload:
        """Lay out a root file system with this module in it, and these files beside it."""
        rootfs = self.daemon.folder / "images" / str(next(_numbers))
        rootfs.mkdir(parents=True)
        shutil.copy(module, rootfs / "app.wasm")
        for file in files:
            shutil.copy(file, rootfs / file.name)
        return Workload(rootfs, args, cgroups)

    def task(self, workload: Workload) -> Task:
        """Write a bundle."""
        number = next(_numbers)
        bundle = self.daemon.folder / "bundles" / str(number)
        bundle.mkdir(parents=True)
        config = {
            "ociVersion": "1.2.0",
            "process": {"args": ["/app.wasm", *workload.args], "cwd": "/", "user": {"uid": 1000, "gid": 1000}},
            "root": {"path": str(workload.rootfs)},
            "annotations": {"io.kubernetes.cri.sandbox-id": self.pod.id},
        }
        if workload.cgroups:
            config["linux"] = {"cgroupsPath": f"/{self.daemon.folder.name}/{number}"}
        (bundle / "config.json").write_text(json.dumps(config))
        return Task(f"t{number}", bundle)

    def piped(self, workload: Workload) -> Task:
        """Write a bundle of a container whose stdout is a FIFO."""
        task = self.task(workload)
        task.stdout = str(task.bundle / "stdout")
        os.mkfifo(task.stdout)
        return task

    def connect(self) -> Connection:
        """A connection to the Task API."""
        return Connection(self.daemon.task_socket, self.pod.namespace, timeout=END_SECONDS)

    def processes(self) -> dict[str, int]:
        """The pids of supervisor, forkserver, zygote and relay, when something has run and few workers live."""
        assert self.daemon.process is not None
        found = {"supervisor": self.daemon.process.pid}
        for helper in psutil.Process(found["supervisor"]).children():
            for name in ("forkserver", "relay"):
                if f"/{name}-" in helper.cmdline()[-1]:  # and its build
                    found[name] = helper.pid
        for child in psutil.Process(found["forkserver"]).children():
            if child.name().startswith("zygote-"):  # others are workers, and templates that are soon gone
                found["zygote"] = child.pid
        return found


def lifecycle(connection: Connection, task: Task) -> float:
    """Seconds of Create, Start, Wait and Delete of a container that ends by itself."""
    begun = time.perf_counter()
    connection.call("Create", task.request())
    connection.call("Start", pb.StartRequest(id=task.id))
    ended = connection.call("Wait", pb.WaitRequest(id=task.id))
    connection.call("Delete", pb.DeleteRequest(id=task.id))
    elapsed = time.perf_counter() - begun
    assert isinstance(ended, pb.WaitResponse)
    if ended.exit_status:
        raise RuntimeError(f"{task.id} ended with status {ended.exit_status}")
    return elapsed


def run_to_end(connection: Connection, task: Task, status: int = 0) -> float:
    """Seconds from Create to the answer of Wait, of a container that has to end with this status."""
    begun = time.perf_counter()
    connection.call("Create", task.request())
    connection.call("Start", pb.StartRequest(id=task.id))
    ended = connection.call("Wait", pb.WaitRequest(id=task.id))
    elapsed = time.perf_counter() - begun
    connection.call("Delete", pb.DeleteRequest(id=task.id))
    assert isinstance(ended, pb.WaitResponse)
    if ended.exit_status != status:
        raise RuntimeError(f"{task.id} ended with status {ended.exit_status}")
    return elapsed


def first_byte(connection: Connection, task: Task) -> float:
    """Seconds from Create to the first byte on stdout, of a container that ``piped`` made and that ends by itself."""
    fifo = os.open(task.stdout, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fifo, True)
    begun = time.perf_counter()
    connection.call("Create", task.request())
    connection.call("Start", pb.StartRequest(id=task.id))
    said = os.read(fifo, 1)
    elapsed = time.perf_counter() - begun
    os.close(fifo)
    connection.call("Wait", pb.WaitRequest(id=task.id))
    connection.call("Delete", pb.DeleteRequest(id=task.id))
    if not said:
        raise RuntimeError(f"{task.id} wrote nothing")
    return elapsed


class Crowd:
    """Idle containers, each with a pending Wait, all of one bundle: how many live is what matters, and nothing else."""

    def __init__(self, site: Site, workload: Workload, stdin: str = "") -> None:
        self._site = site
        self._workload = workload
        self._stdin = stdin
        self._template = None if workload.cgroups else site.task(workload)
        self._connections: list[Connection] = []
        self.alive = 0

    def grow(self, to: int) -> Iterator[int]:
        """Start more, until so many live; says how many do every now and then."""
        while self.alive < to:
            if self.alive % WAITS == 0:
                self._connections.append(self._site.connect())
            connection = self._connections[-1]
            count = min(AT_ONCE, to - self.alive, WAITS - self.alive % WAITS)
            tasks = [self._task() for _ in range(count)]
            self._all(connection, "Create", [task.request() for task in tasks])
            self._all(connection, "Start", [pb.StartRequest(id=task.id) for task in tasks])
            for task in tasks:
                connection.send("Wait", pb.WaitRequest(id=task.id))
            self.alive += count
            yield self.alive

    def close(self) -> None:
        """Hang up; the containers live on."""
        for connection in self._connections:
            connection.close()

    def _task(self) -> Task:
        if self._template is None:
            return self._site.task(self._workload)
        return Task(f"t{next(_numbers)}", self._template.bundle, stdin=self._stdin)

    @staticmethod
    def _all(connection: Connection, method: str, requests: Sequence[Message]) -> None:
        streams = [connection.send(method, request) for request in requests]
        for stream in streams:
            connection.receive(stream, method)


def sandbox(number: int) -> types_pb2.Sandbox:
    """One more sandbox's description."""
    return types_pb2.Sandbox(sandbox_id=f"s{number}")
