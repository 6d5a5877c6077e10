"""One client of the chaos test: it does things at random, and knows at any time what must have come of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from sandbox_api.errors import FailedPrecondition, NotFound, Unavailable
from sandbox_api.proto import task_pb2 as pb

from ..harness.api import Api
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.ttrpc import Connection
from .model import ALIVE, Phase, Process, World

AWAY_SECONDS = 60.0
GUESTS = ("exit", "sleep", "trap")
T = TypeVar("T")


class Lost(Exception):
    """The answer did not come: the call has happened, or not."""


@dataclass
class Container:
    """A container of this client's: its processes by exec id, "" for the first."""

    pod: str
    bundle: Path
    processes: dict[str, Process]
    waiter: Connection | None = None
    """A Wait for its first process that is to be answered through every restart."""

    @property
    def init(self) -> Process:
        return self.processes[""]


@dataclass
class Pod:
    """A sandbox of this client's."""

    id: str
    phases: set[str]
    containers: dict[str, Container] = field(default_factory=dict)


class Client:
    """Acts until told to stop, then takes everything down."""

    def __init__(self, daemon: Daemon, world: World, namespace: str, number: int, seed: int) -> None:
        self.name = f"client{number}"
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.world = world
        self.pods: dict[str, Pod] = {}
        self._daemon = daemon
        self._namespace = namespace
        self._number = number
        self._random = random.Random(f"{seed} {number}")
        self._made = 0
        self._tasks: Connection | None = None
        self._sandboxes: Api | None = None

    def _run(self) -> None:
        try:
            while not self.world.stop.is_set():
                with self.world.acting():
                    self._act()
            with self.world.acting():
                self.finish()
        except Exception as error:
            self.world.complain(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self._hang_up()

    def audit(self) -> set[int]:
        """Compare all that this client has with what the daemon answers; the pids that must be there."""
        pids = set()
        for pod in self.pods.values():
            self._look_at_pod(pod)
            for container in pod.containers.values():
                for process in container.processes.values():
                    self.look(process)
                    if process.is_(*ALIVE):
                        pids.add(process.pid)
        return pids

    def finish(self) -> None:
        """Take everything down."""
        for pod in list(self.pods.values()):
            while pod.id in self.pods:
                self._shut_down(pod)

    # What a client does, each from a state that is certain.

    def _act(self) -> None:
        if (len(self.pods) < 2 and self._random.random() < 0.3) or not self.pods:
            self._new_pod()
            return
        pod = self._random.choice(list(self.pods.values()))
        self._settle(pod)
        chance = self._random.random()
        if "ready" not in pod.phases or chance < 0.02:
            self._shut_down(pod)
        elif chance < 0.03:
            self._stop_pod(pod)
        elif not pod.containers or (len(pod.containers) < 6 and chance < 0.25):
            self._create(pod)
        else:
            self._act_on(pod, self._random.choice(list(pod.containers.values())))

    def _settle(self, pod: Pod) -> None:
        if len(pod.phases) > 1:
            self._look_at_pod(pod)
        for container in pod.containers.values():
            for process in container.processes.values():
                if len(process.phases) > 1:
                    self.look(process)

    def _act_on(self, pod: Pod, container: Container) -> None:
        init = container.init
        if init.is_(Phase.ABSENT):
            self._dispose(pod, container)
        elif init.is_(Phase.CREATED):
            self._random.choice([self._start, self._start, self._start, self._kill])(container, init)
        elif init.is_(Phase.PAUSED):
            self._random.choice([self._resume, self._resume, self._kill_init])(container)
        elif init.is_(Phase.STOPPED):
            self._random.choice([self._delete, self._wait_init])(pod, container)
        else:
            self._act_on_running(pod, container)

    def _act_on_running(self, pod: Pod, container: Container) -> None:
        init = container.init
        if init.ends_with is not None or init.ending:
            self._wait_init(pod, container)
            return
        execs = [process for process in container.processes.values() if process.exec_id]
        chance = self._random.random()
        if chance < 0.15:
            self._pause(container)
        elif chance < 0.35 and len(execs) < 3:
            self._exec(container)
        elif chance < 0.5:
            self._kill(container, init)
        elif chance < 0.6 and container.waiter is None:
            self._begin_to_wait(container)
        elif execs:
            process = self._random.choice(execs)
            if process.is_(Phase.ABSENT):
                del container.processes[process.exec_id]
            elif process.is_(Phase.CREATED):
                self._start(container, process)
            elif process.is_(Phase.STOPPED):
                self._delete_exec(container, process)
            elif process.ends_with is None and not process.ending:
                self._kill(container, process)
            else:
                self._wait(process)
        else:
            self.look(init)

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._number}-{self._made}"

    def _new_pod(self) -> None:
        pod = self.pods[name] = Pod(name := self._name("pod"), {"absent"})
        for method, phase in (("create", "created"), ("start", "ready")):
            try:
                self._on_sandbox(method, name)
            except Lost:
                pod.phases.add(phase)
                self._look_at_pod(pod)
                return
            pod.phases = {phase}

    def _stop_pod(self, pod: Pod) -> None:
        timeout = self._random.choice([0, 1])
        self._may_all_end(pod)
        try:
            self._on_sandbox("stop", pod.id, timeout)
        except Lost:
            pod.phases.add("notready")
            return
        pod.phases = {"notready"}
        for container in pod.containers.values():
            for process in container.processes.values():
                if not process.is_(Phase.ABSENT):
                    process.now(Phase.STOPPED)

    def _may_all_end(self, pod: Pod) -> None:
        for container in pod.containers.values():
            for process in container.processes.values():
                process.may_end_with(137, 143)
                if Phase.ABSENT not in process.phases:
                    process.maybe(Phase.STOPPED)

    def _shut_down(self, pod: Pod) -> None:
        self._may_all_end(pod)
        try:
            self._on_sandbox("shutdown", pod.id)
        except NotFound:
            if "absent" not in pod.phases:
                self.world.complain(f"{pod.id}: lost; it was {sorted(pod.phases)}")
        except Lost:
            pod.phases |= {"notready", "absent"}
            for container in pod.containers.values():
                for process in container.processes.values():
                    process.maybe(Phase.ABSENT)
            return
        for container in list(pod.containers.values()):
            for process in container.processes.values():
                process.now(Phase.ABSENT)
            self._dispose(pod, container)
        del self.pods[pod.id]

    def _create(self, pod: Pod) -> None:
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
            os.link(guest(each), bundle / "rootfs" / f"{each}.wasm")
        config = {
            "ociVersion": "1.2.0",
            "process": {"args": args, "env": [], "cwd": "/", "user": {"uid": 1000 + number, "gid": 1000}},
            "root": {"path": "rootfs"},
            "mounts": [],
            "linux": {},
            "annotations": {"io.kubernetes.cri.sandbox-id": pod.id},
        }
        if self._random.random() < 0.3:
            config["mounts"] += [{"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}]  # type: ignore[operator]
        if self._random.random() < 0.2:
            (bundle / "hosts").write_text("127.0.0.1 here\n")
            hosts = {"destination": "/etc/hosts", "type": "bind", "source": str(bundle / "hosts"), "options": ["rbind"]}
            config["mounts"] += [hosts]  # type: ignore[operator]
        if self._random.random() < 0.3:
            config["linux"] = {
                "cgroupsPath": f"/wasm-sandboxer/{self._namespace}/{name}",
                "resources": {"pids": {"limit": 20}},
            }
        (bundle / "config.json").write_text(json.dumps(config))
        streams = {"stderr": f"file://{bundle}/stderr"}
        if self._random.random() < 0.3:
            for stream in ("stdin", "stdout"):
                os.mkfifo(bundle / stream)
                streams[stream] = str(bundle / stream)
        process = Process(name, "", ends_with)
        pod.containers[name] = Container(pod.id, bundle, {"": process})
        request = pb.CreateTaskRequest(id=name, bundle=str(bundle), **streams)
        try:
            self._task("Create", request)
        except Lost:
            process.maybe(Phase.CREATED)
            return
        process.now(Phase.CREATED)

    def _dispose(self, pod: Pod, container: Container) -> None:
        """Forget a container that is no more, as its client does."""
        if container.waiter is not None:
            container.waiter.close()
        shutil.rmtree(container.bundle)
        del pod.containers[container.init.id]

    def _start(self, container: Container, process: Process) -> None:
        process.started = time.monotonic()
        try:
            answer = self._task("Start", pb.StartRequest(id=process.id, exec_id=process.exec_id))
        except FailedPrecondition as error:
            self._refused(container, "Start", error)
            return
        except Lost:
            process.maybe(Phase.RUNNING)
            if process.ends_with is not None:
                process.may_end_with(process.ends_with)
                process.maybe(Phase.STOPPED)
            return
        process.pid = answer.pid  # type: ignore[attr-defined]
        process.now(Phase.RUNNING)
        if process.ends_with is not None:
            process.may_end_with(process.ends_with)

    def _exec(self, container: Container) -> None:
        number = self._random.randrange(200)
        args, ends_with = self._random.choice([(["/exit.wasm", str(number)], number), (["/sleep.wasm"], None)])
        process = Process(container.init.id, self._name("e"), ends_with)  # type: ignore[arg-type]
        container.processes[process.exec_id] = process
        request = pb.ExecProcessRequest(id=process.id, exec_id=process.exec_id)
        request.spec.value = json.dumps({"args": args, "cwd": "/", "user": {"uid": 7, "gid": 7}}).encode()
        try:
            self._task("Exec", request)
        except FailedPrecondition as error:
            self._refused(container, "Exec", error)
            return
        except Lost:
            process.maybe(Phase.CREATED)
            return
        process.now(Phase.CREATED)

    def _refused(self, container: Container, what: str, error: Exception) -> None:
        """Only because the container has ended meanwhile."""
        self.look(container.init)
        if not container.init.is_(Phase.STOPPED):
            self.world.complain(f"{container.init.name}: {what}: {error}; it is {sorted(container.init.phases)}")

    def _kill_init(self, container: Container) -> None:
        self._kill(container, container.init)

    def _kill(self, container: Container, process: Process) -> None:
        number = self._random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        everyone = not process.exec_id and self._random.random() < 0.2
        hit = list(container.processes.values()) if everyone else [process]
        if not process.exec_id:
            for each in container.processes.values():  # its end is the end of those that run
                if each.phases & ALIVE:
                    each.may_end_with(137)
        for each in hit:
            if Phase.ABSENT not in each.phases:
                each.may_end_with(128 + number)
        request = pb.KillRequest(id=process.id, exec_id=process.exec_id, signal=number, all=everyone)
        try:
            self._task("Kill", request)
        except NotFound:
            self.look(process)
            if not process.is_(Phase.STOPPED):
                self.world.complain(f"{process.name}: Kill does not find it, and it is {sorted(process.phases)}")
            return
        except Lost:
            for each in hit:
                if each.phases & {Phase.CREATED, *ALIVE}:
                    each.maybe(Phase.STOPPED)
            return
        for each in hit:
            if each.is_(Phase.CREATED):
                each.now(Phase.STOPPED)
            elif each.is_(Phase.PAUSED) and number != signal.SIGKILL:
                each.maybe(Phase.PAUSED)
            else:
                each.ending = True

    def _pause(self, container: Container) -> None:
        self._switch(container, "Pause", Phase.RUNNING, Phase.PAUSED)

    def _resume(self, container: Container) -> None:
        self._switch(container, "Resume", Phase.PAUSED, Phase.RUNNING)

    def _switch(self, container: Container, method: str, before: Phase, after: Phase) -> None:
        alive = [process for process in container.processes.values() if process.phases & ALIVE]
        request = pb.PauseRequest(id=container.init.id) if method == "Pause" else pb.ResumeRequest(id=container.init.id)
        try:
            self._task(method, request)
        except FailedPrecondition as error:
            self._refused(container, method, error)
            return
        except Lost:
            for process in alive:
                process.maybe(before, after)
            return
        for process in alive:
            if process.endings:  # it may have ended before, or since
                process.maybe(after, Phase.STOPPED)
                process.phases.discard(before)
            else:
                process.now(after)

    def _begin_to_wait(self, container: Container) -> None:
        try:
            container.waiter = Connection(self._daemon.task_socket, self._namespace)
            container.waiter.send("Wait", pb.WaitRequest(id=container.init.id))
        except OSError:
            container.waiter = None

    def _wait_init(self, pod: Pod, container: Container) -> None:
        if container.waiter is not None:
            waiter, container.waiter = container.waiter, None
            try:
                response = waiter.response(1)
                answer = pb.WaitResponse.FromString(response.payload)
                if response.status.code:
                    self.world.complain(f"{container.init.name}: Wait: {response.status.message}")
                else:
                    self.world.ended(container.init, answer.exit_status)
                    self.world.count("waits answered on their first connection")
            except TimeoutError:
                self.world.complain(f"{container.init.name}: a Wait was not answered")
            except (EOFError, OSError):
                self.world.count("waits cut off")  # it had not reached the daemon when that died
            finally:
                waiter.close()
        self._wait(container.init)

    def _wait(self, process: Process) -> None:
        try:
            answer = self._task("Wait", pb.WaitRequest(id=process.id, exec_id=process.exec_id))
        except Lost:
            return
        self.world.ended(process, answer.exit_status)  # type: ignore[attr-defined]
        self.look(process)

    def _delete(self, pod: Pod, container: Container) -> None:
        for process in container.processes.values():  # those that still run are ended with it
            process.may_end_with(137)
        try:
            answer = self._task("Delete", pb.DeleteRequest(id=container.init.id))
        except Lost:
            for process in container.processes.values():
                process.maybe(Phase.ABSENT, Phase.STOPPED)
            return
        self.world.ended(container.init, answer.exit_status)  # type: ignore[attr-defined]
        for process in container.processes.values():
            process.now(Phase.ABSENT)
        self._dispose(pod, container)

    def _delete_exec(self, container: Container, process: Process) -> None:
        try:
            answer = self._task("Delete", pb.DeleteRequest(id=process.id, exec_id=process.exec_id))
        except Lost:
            process.maybe(Phase.ABSENT)
            return
        self.world.ended(process, answer.exit_status)  # type: ignore[attr-defined]
        del container.processes[process.exec_id]

    # What it sees.

    def look(self, process: Process) -> None:
        """State, compared with what is known."""
        while True:
            try:
                answer = self._task("State", pb.StateRequest(id=process.id, exec_id=process.exec_id))
            except NotFound:
                self.world.observe(process, None)
            except Lost:
                continue
            else:
                self.world.observe(process, answer)  # type: ignore[arg-type]
            return

    def _look_at_pod(self, pod: Pod) -> None:
        while True:
            try:
                answer = self._on_sandbox("status", pod.id)
            except NotFound:
                phase = "absent"
            except Lost:
                continue
            else:
                phase = "ready" if answer.state == "SANDBOX_READY" else "created or notready"  # type: ignore[attr-defined]
            break
        allowed = set(pod.phases)
        if phase == "created or notready":
            if not allowed & {"created", "notready"}:
                self.world.complain(f"{pod.id}: not ready; it can only be {sorted(allowed)}")
            pod.phases = allowed & {"created", "notready"}
            return
        if phase not in allowed:
            self.world.complain(f"{pod.id}: {phase}; it can only be {sorted(allowed)}")
        pod.phases = {phase}

    # Calls, and what may become of them.

    def _task(self, method: str, request: Message) -> Message:
        def call() -> Message:
            if self._tasks is None:
                self._tasks = Connection(self._daemon.task_socket, self._namespace)
            return self._tasks.call(method, request)

        return self._call(method, call)

    def _on_sandbox(self, method: str, *arguments: object) -> object:
        def call() -> object:
            if self._sandboxes is None:
                self._sandboxes = Api(self._daemon.listen, self._namespace)
            return getattr(self._sandboxes, method)(*arguments)

        return self._call(f"sandbox {method}", call)

    def _call(self, what: str, call: Callable[[], T]) -> T:
        self.world.count("operations")
        self.world.count(what)
        begun = time.monotonic()
        try:
            return call()
        except TimeoutError:
            self.world.complain(f"{self.name}: {what}: no answer after {time.monotonic() - begun:.0f} s")
        except (EOFError, OSError, Unavailable):
            pass
        self.world.count("answers lost")
        self._hang_up()
        self._await_return()
        raise Lost(what)

    def _hang_up(self) -> None:
        if self._tasks is not None:
            self._tasks.close()
        if self._sandboxes is not None:
            self._sandboxes.close()
        self._tasks = self._sandboxes = None

    def _await_return(self) -> None:
        """Wait until the daemon serves again."""
        deadline = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                Connection(self._daemon.listen).close()
                self._tasks = Connection(self._daemon.task_socket, self._namespace)
                return
            time.sleep(0.02)
        raise TimeoutError(f"the daemon did not return within {AWAY_SECONDS:g} s")
