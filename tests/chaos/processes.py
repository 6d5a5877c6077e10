"""A client's acts on the processes of its containers, each from a state that is certain."""

from __future__ import annotations

import json
import signal
import time

from sandbox_api.errors import FailedPrecondition, NotFound
from sandbox_api.proto import task_pb2 as pb

from ..harness.ttrpc import Connection
from .calls import Caller, Lost
from .model import ALIVE, Container, Phase, Process


class Processes(Caller):
    """Starts, signals, pauses, limits, waits for and deletes processes."""

    def _start(self, container: Container, process: Process) -> None:
        process.started = time.monotonic()
        try:
            answer = self._task("Start", pb.StartRequest(id=process.id, exec_id=process.exec_id))
        except FailedPrecondition as error:
            self._refused(container, "Start", error)
            return
        except Lost:
            process.maybe(Phase.RUNNING)
            if self.shared.was_short(process.started):  # what could not be recorded is killed
                process.may_end_with(137)
                process.maybe(Phase.STOPPED)
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
        process = Process(container.init.id, self._name("e"), ends_with, init=container.init)  # type: ignore[arg-type]
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
            self.shared.complain(f"{container.init.name}: {what}: {error}; it is {sorted(container.init.phases)}")

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
        begun = time.monotonic()
        try:
            self._task("Kill", request)
        except NotFound:
            self.look(process)
            if self.shared.was_short(begun):  # its exit found no room, and is told later
                process.ending = True
            elif not process.is_(Phase.STOPPED):
                self.shared.complain(f"{process.name}: Kill does not find it, and it is {sorted(process.phases)}")
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

    def _limit(self, container: Container) -> None:
        """Task Update: its processes notice nothing."""
        request = pb.UpdateTaskRequest(id=container.init.id)
        request.resources.value = json.dumps({"pids": {"limit": self._random.randrange(10, 100)}}).encode()
        try:
            self._task("Update", request)
        except FailedPrecondition as error:
            self._refused(container, "Update", error)
        except Lost:
            pass

    def _resize(self, container: Container) -> None:
        """Make its terminal another size."""
        size = self._random.randrange(20, 200)
        try:
            self._task("ResizePty", pb.ResizePtyRequest(id=container.init.id, width=size, height=size))
        except FailedPrecondition as error:
            self._refused(container, "ResizePty", error)
        except Lost:
            pass

    def _begin_to_wait(self, container: Container) -> None:
        try:
            container.waiter = Connection(self._daemon.task_socket, self._namespace)
            container.waiter.send("Wait", pb.WaitRequest(id=container.init.id))
        except OSError:
            container.waiter = None

    def _wait_init(self, container: Container) -> None:
        if container.waiter is not None:
            waiter, container.waiter = container.waiter, None
            try:
                response = waiter.response(1)
                answer = pb.WaitResponse.FromString(response.payload)
                if response.status.code:
                    self.shared.complain(f"{container.init.name}: Wait: {response.status.message}")
                else:
                    self.shared.ended(container.init, answer.exit_status)
                    self.shared.count("waits answered on their first connection")
            except TimeoutError:
                self.shared.complain(f"{container.init.name}: a Wait was not answered")
            except (EOFError, OSError):
                self.shared.count("waits cut off")  # it had not reached the daemon when that died
            finally:
                waiter.close()
        self._wait(container.init)

    def _wait(self, process: Process) -> None:
        try:
            answer = self._task("Wait", pb.WaitRequest(id=process.id, exec_id=process.exec_id))
        except Lost:
            return
        self.shared.ended(process, answer.exit_status)  # type: ignore[attr-defined]
        self.look(process)

    def _delete_exec(self, container: Container, process: Process) -> None:
        try:
            answer = self._task("Delete", pb.DeleteRequest(id=process.id, exec_id=process.exec_id))
        except Lost:
            process.maybe(Phase.ABSENT)
            return
        self.shared.ended(process, answer.exit_status)  # type: ignore[attr-defined]
        del container.processes[process.exec_id]
