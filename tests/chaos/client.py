"""One client of the chaos test: it does things at random, and knows at any time what must have come of them."""

from __future__ import annotations

import itertools
import shutil
import threading

from sandbox_api.errors import NotFound

from ..harness.daemon import Daemon
from ..harness.guests import guest
from .calls import Lost
from .containers import GUESTS, Containers
from .model import ALIVE, Container, Phase, Pod, Shared


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
            for step in itertools.count():
                if self.shared.stop.is_set():
                    break
                with self.shared.acting():
                    self._draw(step)
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
        elif init.is_(Phase.CREATED) and container.handed and self._random.random() < 0.1:
            self._purge(pod, container)
        elif init.is_(Phase.CREATED):
            self._random.choice([self._start, self._start, self._start, self._kill])(container, init)
        elif init.is_(Phase.PAUSED):
            self._random.choice([self._resume, self._resume, self._kill_init])(container)
        elif init.is_(Phase.STOPPED):
            if self._random.random() < 0.5:
                self._wait_init(container)
            elif container.handed and self._random.random() < 0.3:
                self._purge(pod, container)
            else:
                self._delete(pod, container)
        else:
            self._act_on_running(pod, container)

    def _act_on_running(self, pod: Pod, container: Container) -> None:
        init = container.init
        if init.ends_with is not None or init.ending:
            self._wait_init(container)
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
        elif chance < 0.65:
            self._limit(container)
        elif chance < 0.75 and init.terminal:
            self._resize(container)
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
