"""A client's acts on its containers, of a bundle of its own or prepared before, in one of two dialects."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_api.errors import AlreadyExists, FailedPrecondition, NotFound
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import types_pb2

from .calls import Lost
from .model import Container, Phase, Pod, Process
from .processes import Processes

GUESTS = ("exit", "sleep", "trap")


@dataclass(frozen=True)
class Wanted:
    """A container as a client wants it."""

    name: str
    bundle: Path
    config: dict[str, Any]
    streams: dict[str, str]
    terminal: bool
    ends_with: int | None


class Containers(Processes):
    """Creates, hands over, takes back and deletes containers."""

    _guests: Path
    """Has the guests' modules, on the file system of the bundles."""

    def _create(self, pod: Pod) -> None:
        wanted = self._wanted(pod)
        process = Process(wanted.name, "", wanted.ends_with, terminal=wanted.terminal)
        container = pod.containers[wanted.name] = Container(pod.id, wanted.bundle, {"": process})
        bundle = str(wanted.bundle)
        if self._random.random() < 0.3:
            bundle = self._hand_over(pod, container, wanted)
            if self._random.random() < 0.2:
                self._dispose(pod, container)  # it thought better of it
                return
        else:
            (wanted.bundle / "config.json").write_text(json.dumps(wanted.config))
        request = pb.CreateTaskRequest(
            id=wanted.name, bundle=bundle, terminal=wanted.terminal, **(wanted.streams if not container.handed else {})
        )
        try:
            self._task("Create", request)
        except Lost:
            process.maybe(Phase.CREATED)
            return
        process.now(Phase.CREATED)

    def _wanted(self, pod: Pod) -> Wanted:
        name = self._name("c")
        kind = self._random.choice(["exit", "sleep", "sleep", "sleep", "trap", "short"])
        number = self._random.randrange(200)
        args, ends_with = {
            "exit": (["/exit.wasm", str(number)], number),
            "sleep": (["/sleep.wasm"], None),
            "trap": (["/trap.wasm"], 134),
            "short": (["/sleep.wasm", "1"], 0),
        }[kind]
        bundle = self._daemon.folder / "bundles" / name
        (bundle / "rootfs").mkdir(parents=True)
        for each in GUESTS:
            os.link(self._guests / f"{each}.wasm", bundle / "rootfs" / f"{each}.wasm")
        terminal = self._random.random() < 0.2
        config: dict[str, Any] = {
            "ociVersion": "1.2.0",
            "process": {"args": args, "cwd": "/", "user": {"uid": 1000 + number, "gid": 1000}, "terminal": terminal},
            "root": {"path": "rootfs"},
            "mounts": [],
            "linux": {},
            "annotations": {"io.kubernetes.cri.sandbox-id": pod.id},
        }
        if self._random.random() < 0.25:
            config["annotations"]["run.wasm-sandboxer/engine"] = "wasmtime"
        if self._random.random() < 0.3:
            config["mounts"] += [{"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}]
        if self._random.random() < 0.2:
            (bundle / "hosts").write_text("127.0.0.1 here\n")
            hosts = {"destination": "/etc/hosts", "type": "bind", "source": str(bundle / "hosts"), "options": ["rbind"]}
            config["mounts"] += [hosts]
        if self._random.random() < 0.3:
            config["linux"] = {
                "cgroupsPath": f"/wasm-sandboxer/{self._namespace}/{name}",
                "resources": {"pids": {"limit": 20}},
            }
        streams = {} if terminal else {"stderr": f"file://{bundle}/stderr"}
        if terminal or self._random.random() < 0.3:
            for stream in ("stdin", "stdout"):
                os.mkfifo(bundle / stream)
                streams[stream] = str(bundle / stream)
        return Wanted(name, bundle, config, streams, terminal, ends_with)

    def _hand_over(self, pod: Pod, container: Container, wanted: Wanted) -> str:
        """Prepare it, in this pod's dialect, until that is certain; the bundle that the sandboxer made."""
        container.handed = True
        name, rootfs = wanted.name, str(wanted.bundle / "rootfs")
        if pod.dialect == "2023":
            mount = types_pb2.Mount(type="bind", source=rootfs, options=["rbind"])
            fields = {"rootfs": [mount], "terminal": wanted.terminal, **wanted.streams}
            self._surely(pod, "prepare", name, wanted.config, **fields)
        else:
            mounts = [{"type": "bind", "source": rootfs, "options": ["rbind"]}]
            pod.handed[name] = {"task_id": name, "spec": wanted.config, "rootfs": mounts, **wanted.streams}
            self._surely(pod, "update_tasks", list(pod.handed.values()))
        made = self._daemon.dir / "bundles" / self._namespace / name
        if not (made / "config.json").exists():
            self.shared.complain(f"{name}: prepared, and has no bundle")
        return str(made)

    def _take_back(self, pod: Pod, container: Container) -> None:
        """Purge it, or leave it out of the list, until that is certain. A container that was made of it goes, too."""
        name = container.init.id
        if pod.dialect == "2023":
            self._surely(pod, "purge", name)
        else:
            pod.handed.pop(name, None)
            self._surely(pod, "update_tasks", list(pod.handed.values()))
        container.handed = False
        if (self._daemon.dir / "bundles" / self._namespace / name).exists():
            self.shared.complain(f"{name}: purged, and its bundle is there")

    def _surely(self, pod: Pod, method: str, *arguments: object, **fields: object) -> None:
        """Again until there is an answer. It may then be done already, or be gone."""
        lost = False
        while True:
            try:
                self._hand(pod.dialect, method, pod.id, *arguments, **fields)
            except Lost:
                lost = True
            except (AlreadyExists, NotFound) as error:
                if not lost:
                    self.shared.complain(f"{pod.id}: {method} {arguments[0]}: {error}")
                return
            else:
                return

    def _purge(self, pod: Pod, container: Container) -> None:
        """Have a container that does not run deleted with its preparation."""
        for process in container.processes.values():
            self.look(process)
        if not all(process.is_(Phase.CREATED, Phase.STOPPED, Phase.ABSENT) for process in container.processes.values()):
            return
        try:
            self._take_back(pod, container)
        except FailedPrecondition as error:
            self.shared.complain(f"{container.init.name}: {error}, and nothing of it runs")
        for process in container.processes.values():
            process.now(Phase.ABSENT)
        self._dispose(pod, container)

    def _delete(self, pod: Pod, container: Container) -> None:
        for process in container.processes.values():  # those that still run are ended with it
            process.may_end_with(137)
        try:
            answer = self._task("Delete", pb.DeleteRequest(id=container.init.id))
        except Lost:
            for process in container.processes.values():
                process.maybe(Phase.ABSENT, Phase.STOPPED)
            return
        self.shared.ended(container.init, answer.exit_status)  # type: ignore[attr-defined]
        for process in container.processes.values():
            process.now(Phase.ABSENT)
        self._dispose(pod, container)

    def _dispose(self, pod: Pod, container: Container) -> None:
        """Forget a container that is no more, as its client does."""
        if container.handed and "absent" not in pod.phases:
            self._take_back(pod, container)
        if container.waiter is not None:
            container.waiter.close()
        shutil.rmtree(container.bundle)
        del pod.containers[container.init.id]
