"""iSulad's calls, in both dialects of the Sandbox API: the same verbs, other messages."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from sandbox_api import status
from sandbox_api.proto import controller_2023_pb2 as old
from sandbox_api.proto import controller_pb2 as new
from sandbox_api.proto import task_pb2 as task

from .api import SERVICE
from .daemon import Daemon
from .guests import guest
from .ttrpc import Connection


class Isulad:
    """The common part of both versions: a channel without namespace metadata, unless one is given."""

    def __init__(self, daemon: Daemon, namespace: str = "") -> None:
        self.daemon = daemon
        self._metadata = (("containerd-namespace", namespace),) if namespace else ()
        self.channel = grpc.insecure_channel(f"unix:{daemon.listen}")

    def call(self, method: str, request: Message, answer: type[Message]) -> Any:
        stub = self.channel.unary_unary(SERVICE + method)
        try:
            return answer.FromString(stub(request.SerializeToString(), timeout=60, metadata=self._metadata))
        except grpc.RpcError as error:
            raise status.error(error.code().value[0], error.details() or "") from None


class Isulad2023(Isulad):
    """iSulad 2.1.3 to 2.1.5."""

    def named(self, method: str, sandbox_id: str, **fields: Any) -> Any:
        request = getattr(old, f"Controller{method}Request")(sandboxer="wasm", sandbox_id=sandbox_id, **fields)
        return self.call(method, request, getattr(old, f"Controller{method}Response"))

    def create(self, sandbox_id: str, **fields: Any) -> None:
        request = old.ControllerCreateRequest(sandboxer="wasm", sandbox_id=sandbox_id, **fields)
        request.options.type_url = "runtime.v1.PodSandboxConfig"
        request.options.value = b"\n\x05\n\x03pod"
        assert self.call("Create", request, old.ControllerCreateResponse).sandbox_id == sandbox_id

    def prepare(
        self, sandbox_id: str, container_id: str, spec: dict[str, Any], exec_id: str = "", **fields: Any
    ) -> str:
        request = old.PrepareRequest(
            sandboxer="wasm", sandbox_id=sandbox_id, container_id=container_id, exec_id=exec_id, **fields
        )
        request.spec.value = json.dumps(spec).encode()
        return self.call("Prepare", request, old.PrepareResponse).bundle

    def purge(self, sandbox_id: str, container_id: str, exec_id: str = "") -> None:
        request = old.PurgeRequest(sandboxer="wasm", sandbox_id=sandbox_id, container_id=container_id, exec_id=exec_id)
        self.call("Purge", request, old.PurgeResponse)

    def update_resources(self, sandbox_id: str, container_id: str, resources: dict[str, Any]) -> None:
        request = old.UpdateResourcesRequest(sandboxer="wasm", sandbox_id=sandbox_id, container_id=container_id)
        request.resources.value = json.dumps(resources).encode()
        self.call("UpdateResources", request, old.UpdateResourcesResponse)


class Isulad216(Isulad):
    """iSulad 2.1.6 and later."""

    def named(self, method: str, sandbox_id: str, **fields: Any) -> Any:
        request = getattr(new, f"Controller{method}Request")(sandbox_id=sandbox_id, sandboxer="wasm", **fields)
        return self.call(method, request, getattr(new, f"Controller{method}Response"))

    def create(self, sandbox_id: str, **fields: Any) -> None:
        request = new.ControllerCreateRequest(sandbox_id=sandbox_id, sandboxer="wasm", **fields)
        request.options.value = b"\n\x05\n\x03pod"
        assert self.call("Create", request, new.ControllerCreateResponse).sandbox_id == sandbox_id

    def update_tasks(self, sandbox_id: str, tasks: list[dict[str, Any]]) -> None:
        request = new.ControllerUpdateRequest(sandbox_id=sandbox_id, sandboxer="wasm", fields=["extensions.tasks"])
        request.sandbox.sandbox_id = sandbox_id
        request.sandbox.extensions["tasks"].value = json.dumps({"tasks": tasks}).encode()
        self.call("Update", request, new.ControllerUpdateResponse)


class ShimLibrary(Connection):
    """iSulad's lib-shim-v2: its calls of the Task API, of version 2 and without namespace metadata."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon.task_socket, namespace="")

    def send(self, method: str, request: Message, service: str = "containerd.task.v2.Task") -> int:
        return super().send(method, request, service)

    def call(self, method: str, request: Message, service: str = "containerd.task.v2.Task") -> Any:
        return super().call(method, request, service)

    def create(self, container_id: str, bundle: str, **streams: str) -> None:
        self.call("Create", task.CreateTaskRequest(id=container_id, bundle=bundle, **streams))

    def exec(self, container_id: str, exec_id: str, spec: bytes = b"") -> None:
        request = task.ExecProcessRequest(id=container_id, exec_id=exec_id)
        request.spec.value = spec
        self.call("Exec", request)

    def start(self, container_id: str, exec_id: str = "") -> int:
        return int(self.call("Start", task.StartRequest(id=container_id, exec_id=exec_id)).pid)

    def wait(self, container_id: str, exec_id: str = "") -> int:
        return int(self.call("Wait", task.WaitRequest(id=container_id, exec_id=exec_id)).exit_status)

    def state(self, container_id: str, exec_id: str = "") -> task.StateResponse:
        answer = self.call("State", task.StateRequest(id=container_id, exec_id=exec_id))
        assert isinstance(answer, task.StateResponse)
        return answer

    def kill(self, container_id: str, signal: int, exec_id: str = "") -> None:
        self.call("Kill", task.KillRequest(id=container_id, exec_id=exec_id, signal=signal))

    def delete(self, container_id: str, exec_id: str = "") -> int:
        return int(self.call("Delete", task.DeleteRequest(id=container_id, exec_id=exec_id)).exit_status)

    def pids(self, container_id: str) -> list[int]:
        return [each.pid for each in self.call("Pids", task.PidsRequest(id=container_id)).processes]


def image(folder: Path, *names: str) -> Path:
    """A root file system with these guests in it."""
    root = folder / "image"
    root.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(guest(name), root / f"{name}.wasm")
    return root


def spec(root: Path | str, *args: str, **linux: Any) -> dict[str, Any]:
    return {"process": {"args": list(args), "cwd": "/"}, "root": {"path": str(root)}, "linux": linux}


def bundle(folder: Path, config: dict[str, Any]) -> str:
    """A bundle of the engine's own."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def records(daemon: Daemon, table: str) -> int:
    """Rows of a table of the state file."""
    with closing(sqlite3.connect(f"file:{daemon.dir}/state.db?mode=ro", uri=True)) as database:
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def with_network_of(root: Path, sandbox: str, pid: int, *args: str) -> dict[str, Any]:
    """A spec of a container in the network namespace of the pid that was answered for its sandbox."""
    network = {"type": "network", "path": f"/proc/{pid}/ns/net"}
    config = spec(root, *args, namespaces=[network])
    return config | {"annotations": {"io.kubernetes.cri.sandbox-id": sandbox}}


def starts_on_the_host(shim: ShimLibrary, name: str) -> bool:
    return os.readlink(f"/proc/{shim.start(name)}/ns/net") == os.readlink("/proc/self/ns/net")
