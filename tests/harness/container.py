"""One fluent builder for containers: ``pod.with_wasm("hello").args("a").build().start().wait()``."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import types_pb2

from .api import Api
from .daemon import Daemon
from .guests import guest
from .names import RUN
from .ttrpc import Connection

_numbers = itertools.count(1)


class Pod:
    """A ready sandbox on a daemon."""

    def __init__(self, daemon: Daemon, namespace: str = "default", **fields: object) -> None:
        self.daemon = daemon
        self.namespace = namespace
        self.api = Api(daemon.listen, namespace)
        self.id = f"pod{next(_numbers)}"
        self.api.create(self.id, **fields)
        self.api.start(self.id)

    def with_wasm(self, module: str | bytes | Path) -> Builder:
        """A container of a guest by name, of a module file, or of these bytes as a module."""
        return Builder(self, module)

    def stop(self, timeout: int = 0) -> None:
        self.api.stop(self.id, timeout)

    def shutdown(self) -> None:
        self.api.shutdown(self.id)

    def close(self) -> None:
        self.api.close()


@contextmanager
def ready_pod(daemon: Daemon) -> Iterator[Pod]:
    """A ready sandbox of a test's own, shut down after it."""
    made = Pod(daemon)
    yield made
    made.shutdown()
    made.close()


class Builder:
    """A container's bundle to be."""

    def __init__(self, pod: Pod, module: str | bytes | Path) -> None:
        self.pod = pod
        self.id = f"c{next(_numbers)}-{RUN}"  # its control group is the machine's
        self.bundle = pod.daemon.folder / "bundles" / self.id
        self.rootfs = self.bundle / "rootfs"
        self.rootfs.mkdir(parents=True)
        if isinstance(module, bytes):
            (self.rootfs / "app.wasm").write_bytes(module)
        else:
            shutil.copy(guest(module) if isinstance(module, str) else module, self.rootfs / "app.wasm")
        self.config: dict[str, Any] = {
            "ociVersion": "1.2.0",
            "process": {"args": ["/app.wasm"], "env": [], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "mounts": [],
            "linux": {},
            "annotations": {"io.kubernetes.cri.sandbox-id": pod.id},
        }
        self._mounts: list[types_pb2.Mount] = []
        self._streams = {
            "stdin": "",
            "stdout": f"file://{self.bundle}/stdout",
            "stderr": f"file://{self.bundle}/stderr",
        }
        self._terminal = False

    def entry(self, entry: str) -> Builder:
        self.config["process"]["args"][0] = entry
        return self

    def args(self, *args: str) -> Builder:
        self.config["process"]["args"] += args
        return self

    def env(self, **env: str) -> Builder:
        self.config["process"]["env"] += [f"{name}={value}" for name, value in env.items()]
        return self

    def process(self, **members: Any) -> Builder:
        self.config["process"].update(members)
        return self

    def linux(self, **members: Any) -> Builder:
        self.config["linux"].update(members)
        return self

    def readonly(self) -> Builder:
        self.config["root"]["readonly"] = True
        return self

    def file(self, path: str, text: str) -> Builder:
        """A file in the root file system."""
        target = self.rootfs / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return self

    def mount(
        self, destination: str, source: str | Path = "", kind: str = "bind", options: tuple[str, ...] = ()
    ) -> Builder:
        options = ("rbind", *options) if kind == "bind" else options
        entry = {"destination": destination, "type": kind, "source": str(source), "options": list(options)}
        self.config["mounts"].append(entry)
        return self

    def rootfs_mount(self, kind: str, source: str | Path, *options: str) -> Builder:
        self._mounts.append(types_pb2.Mount(type=kind, source=str(source), options=options))
        return self

    def streams(self, **streams: str | Path) -> Builder:
        self._streams.update({name: str(where) for name, where in streams.items()})
        return self

    def fifos(self, *names: str) -> Builder:
        """These streams are FIFOs in the bundle."""
        for name in names:
            os.mkfifo(self.bundle / name)
            self._streams[name] = str(self.bundle / name)
        return self

    def terminal(self) -> Builder:
        self._terminal = True
        return self

    def write(self) -> Builder:
        """Write config.json."""
        (self.bundle / "config.json").write_text(json.dumps(self.config))
        return self

    def request(self) -> pb.CreateTaskRequest:
        return pb.CreateTaskRequest(
            id=self.id, bundle=str(self.bundle), rootfs=self._mounts, terminal=self._terminal, **self._streams
        )

    def build(self) -> Container:
        """Create the container."""
        self.write()
        container = Container(self)
        container.connection.call("Create", self.request())
        return container


class Container:
    """A created container, as its client sees it."""

    def __init__(self, builder: Builder) -> None:
        self.id = builder.id
        self.bundle = builder.bundle
        self.rootfs = builder.rootfs
        self.pod = builder.pod
        self._path = builder.pod.daemon.task_socket
        self._namespace = builder.pod.namespace
        self.connection = self.connect()
        self.pid = 0

    def connect(self) -> Connection:
        """A connection more."""
        return Connection(self._path, self._namespace)

    def reconnect(self) -> Container:
        """Go on with a new daemon on the same paths."""
        self.connection.close()
        self.connection = self.connect()
        return self

    def start(self, exec_id: str = "", version: int = 2) -> Container:
        """Start it; by a call of version 3 its input is held open until CloseIO."""
        service = f"containerd.task.v{version}.Task"
        pid = self.connection.call("Start", pb.StartRequest(id=self.id, exec_id=exec_id), service).pid
        if not exec_id:
            self.pid = pid
        return self

    def wait(self, exec_id: str = "") -> int:
        """The exit status, once it has ended."""
        return self.connection.call("Wait", pb.WaitRequest(id=self.id, exec_id=exec_id)).exit_status

    def wait_later(self, exec_id: str = "", timeout: float = 60) -> Waiter:
        """Wait on a connection of its own."""
        return Waiter(self, exec_id, timeout)

    def state(self, exec_id: str = "") -> pb.StateResponse:
        return self.connection.call("State", pb.StateRequest(id=self.id, exec_id=exec_id))

    def status(self, exec_id: str = "") -> str:
        return pb.Status.Name(self.state(exec_id).status)

    def kill(self, signal: int, everyone: bool = False, exec_id: str = "") -> None:
        request = pb.KillRequest(id=self.id, exec_id=exec_id, signal=signal, all=everyone)
        self.connection.call("Kill", request)

    def delete(self, exec_id: str = "") -> pb.DeleteResponse:
        return self.connection.call("Delete", pb.DeleteRequest(id=self.id, exec_id=exec_id))

    def close_stdin(self, exec_id: str = "") -> None:
        self.connection.call("CloseIO", pb.CloseIORequest(id=self.id, exec_id=exec_id, stdin=True))

    def add_exec(
        self,
        exec_id: str,
        *args: str,
        env: list[str] | None = None,
        user: dict[str, int] | None = None,
        fifos: bool = False,
        terminal: bool = False,
    ) -> Container:
        """Exec: a process whose streams are ``<exec_id>.in``, ``.out`` and ``.err`` in the bundle."""
        spec = {"args": list(args), "env": env or [], "cwd": "/", "user": user or {"uid": 0, "gid": 0}}
        request = pb.ExecProcessRequest(id=self.id, exec_id=exec_id, terminal=terminal)
        request.spec.value = json.dumps(spec).encode()
        if fifos:
            for name in ("in", "out"):
                os.mkfifo(self.bundle / f"{exec_id}.{name}")
            request.stdin, request.stdout = (str(self.bundle / f"{exec_id}.{name}") for name in ("in", "out"))
        else:
            request.stdout = f"file://{self.bundle}/{exec_id}.out"
            request.stderr = f"file://{self.bundle}/{exec_id}.err"
        self.connection.call("Exec", request)
        return self

    def stdout(self) -> str:
        return (self.bundle / "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        return (self.bundle / "stderr").read_text(errors="replace")


class Waiter:
    """A pending Wait."""

    def __init__(self, container: Container, exec_id: str, timeout: float) -> None:
        self._id = container.id
        self._connection = container.connect()
        self._connection.sock.settimeout(timeout)
        self._stream = self._connection.send("Wait", pb.WaitRequest(id=container.id, exec_id=exec_id))

    def arrived(self) -> Waiter:
        """Make sure that the daemon has it: what it answers on the same connection came after it."""
        self._connection.call("State", pb.StateRequest(id=self._id))
        return self

    def result(self) -> pb.WaitResponse:
        try:
            return self._connection.receive(self._stream, "Wait")
        finally:
            self._connection.close()


class Collected(threading.Thread):
    """Reads a FIFO to its end in the background, as a client does."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self.data = b""
        self.start()

    def run(self) -> None:
        with self._path.open("rb") as file:
            self.data = file.read()

    def text(self, timeout: float = 30) -> str:
        self.join(timeout)
        assert not self.is_alive(), f"{self._path}: no end of file within {timeout} s"
        return self.data.decode(errors="replace")
