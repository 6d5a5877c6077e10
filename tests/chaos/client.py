"""One client of the chaos test: it does things at random, and knows at any time what must have come of them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from typing import TypeVar

from sandbox_api.errors import NotFound

from ..harness.daemon import Daemon
from ..harness.guests import guest
from .calls import Lost
from .containers import GUESTS, Containers
from .model import ALIVE, Container, Phase, Pod, Process, Shared

T = TypeVar("T")


class Client(Containers):
    """Acts until told to stop, then takes everything down."""

    def __init__(self, daemon: Daemon, shared: Shared, namespace: str, number: int, seed: int) -> None:
        super().__init__(daemon, shared, namespace, number, seed)
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.pods: dict[str, Pod] = {}
        self._guests = daemon.folder / f"guests{number}"  # links reach no other file system
        self._guests.mkdir()
        for name in GUESTS:
            shutil.copy(guest(name), self._guests)

    def _run(self) -> None:
        try:
            while not self.shared.stop.is_set():
                with self.shared.acting():
                    self._next_step()
                    self._act()
            with self.shared.acting():
                self.finish()
        except Exception as error:
            self.shared.complain(f"{self.name}: {type(error).__name__}: {error}")
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
        if (len(self.pods) < 2 and self._planned("node") == "new_pod") or not self.pods:
            self._new_pod()
            return
        pod = _pick(list(self.pods.values()), self._step.pod)
        self._settle(pod)
        act = self._planned("pod")
        if "ready" not in pod.phases or act == "shut_down":
            self._shut_down(pod)
        elif act == "stop_pod":
            self._stop_pod(pod)
        elif not pod.containers or (len(pod.containers) < 6 and act == "create"):
            self._create(pod)
        else:
            self._act_on(pod, _pick(list(pod.containers.values()), self._step.container))

    def _planned(self, state: str) -> str:
        return self._step.acts[state]

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
            self._act_on_created(pod, container)
        elif init.is_(Phase.PAUSED):
            if self._planned("paused") == "resume":
                self._resume(container)
            else:
                self._kill(container, init)
        elif init.is_(Phase.STOPPED):
            self._act_on_stopped(pod, container)
        elif init.ends_with is not None or init.ending:
            self._wait_init(container)
        else:
            self._act_on_running(container)

    def _act_on_created(self, pod: Pod, container: Container) -> None:
        if container.handed and self._planned("prepared") == "purge":
            self._purge(pod, container)
        elif self._planned("created") == "start":
            self._start(container, container.init)
        else:
            self._kill(container, container.init)

    def _act_on_stopped(self, pod: Pod, container: Container) -> None:
        act = self._planned("stopped and prepared" if container.handed else "stopped")
        if act == "wait":
            self._wait_init(container)
        elif act == "purge":
            self._purge(pod, container)
        else:
            self._delete(pod, container)

    def _act_on_running(self, container: Container) -> None:
        """The planned act, or where it cannot be, one on its execs."""
        execs = [process for process in container.processes.values() if process.exec_id]
        act = self._planned("running")
        if act == "pause":
            self._pause(container)
        elif act == "exec" and len(execs) < 3:
            self._exec(container)
        elif act == "kill":
            self._kill(container, container.init)
        elif act == "begin_to_wait" and container.waiter is None:
            self._begin_to_wait(container)
        elif act == "limit":
            self._limit(container)
        elif act == "resize" and container.init.terminal:
            self._resize(container)
        elif execs:
            self._act_on_exec(container, _pick(execs, self._step.exec))
        else:
            self.look(container.init)

    def _act_on_exec(self, container: Container, process: Process) -> None:
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

    def _new_pod(self) -> None:
        name = self._name("pod")
        pod = self.pods[name] = Pod(name, {"absent"}, self._random.choice(["2023", "v2"]))
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
        self._until_answered("stop", pod, timeout)
        pod.phases = {"notready"}
        for container in pod.containers.values():
            for process in container.processes.values():
                if not process.is_(Phase.ABSENT):
                    process.now(Phase.STOPPED)

    def _until_answered(self, method: str, pod: Pod, *arguments: object) -> None:
        """Ask until there is an answer, or it is gone because one was lost.

        These take long, and go on where a relay that died cut the connection: the daemon refuses all else meanwhile.
        """
        while True:
            try:
                self._on_sandbox(method, pod.id, *arguments)
            except Lost:
                pod.phases.add("absent" if method == "shutdown" else "notready")
            except NotFound:
                if "absent" not in pod.phases:
                    self.shared.complain(f"{pod.id}: lost; it was {sorted(pod.phases)}")
                return
            else:
                return

    def _may_all_end(self, pod: Pod) -> None:
        for container in pod.containers.values():
            for process in container.processes.values():
                process.may_end_with(137, 143)
                if Phase.ABSENT not in process.phases:
                    process.maybe(Phase.STOPPED)

    def _shut_down(self, pod: Pod) -> None:
        self._may_all_end(pod)
        self._until_answered("shutdown", pod)
        pod.phases = {"absent"}
        for container in list(pod.containers.values()):
            for process in container.processes.values():
                process.now(Phase.ABSENT)
            self._dispose(pod, container)
        del self.pods[pod.id]


def _pick(row: Sequence[T], part: float) -> T:
    return row[int(part * len(row))]
