"""A load whose every part must come through an upgrade: instances, Waits, terminals, inputs, execs, logs."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from sandbox_api.proto import task_pb2 as pb

from ..harness.compiled import until
from ..harness.container import Collected, Container, Pod, Waiter
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.names import RUN

HALF = "first half, "
ENDS = (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1)


class Load:
    """What runs, and what must come of it. Each part has a share of the instances."""

    def __init__(self, daemon: Daemon, instances: int) -> None:
        self.daemon = daemon
        self.pod = Pod(daemon, f"upgrades-{RUN}")
        each = max(1, instances // 8)
        self.sleeping = [self._sleeper() for _ in range(max(3, instances - 5 * each))]
        self.waiters = [container.wait_later(timeout=300).arrived() for container in self.sleeping]
        self.paused = [self._sleeper() for _ in range(each)]
        for container in self.paused:
            container.connection.call("Pause", pb.PauseRequest(id=container.id))
        self.execs = [self._with_exec() for _ in range(each)]
        self.exec_waiters = [container.wait_later("e", timeout=300).arrived() for container in self.execs]
        self.inputs = [Fed(self.pod, terminal=False) for _ in range(each)]
        self.terminals = [Fed(self.pod, terminal=True) for _ in range(each)]
        self.logs = [Fed(self.pod, terminal=False, logged=True) for _ in range(each)]
        self.created = [self._exits(number) for number in range(each)]
        self.ended = [self._exits(number).start() for number in range(each)]
        self.sandbox = self.pod.api.wait(self.pod.id)

    @property
    def running(self) -> list[Container]:
        fed = [each.container for each in (*self.inputs, *self.terminals, *self.logs)]
        return [*self.sleeping, *self.paused, *self.execs, *fed]

    def _sleeper(self) -> Container:
        return self.pod.with_wasm("sleep").build().start()

    def _exits(self, number: int) -> Container:
        return self.pod.with_wasm("exit").args(str(number)).build()

    def _with_exec(self) -> Container:
        return self._sleeper().add_exec("e", "/app.wasm").start("e")

    def switch(self, tree: Path, how: str, one_ends: bool = True) -> None:
        """Another version takes over; meanwhile one ends, and somebody has to be its parent to know how."""
        self.sandbox.cancel()
        getattr(self.daemon, how)()
        if one_ends:
            os.kill(self.sleeping.pop().pid, signal.SIGTERM)
        self.daemon.tree = tree
        self.daemon.start()
        if one_ends:
            assert self.waiters.pop().result().exit_status == 143
        assert self.pod.api.status(self.pod.id).state == "SANDBOX_READY"
        self.sandbox = self.pod.api.wait(self.pod.id)
        self.look()

    def look(self) -> None:
        """All is as it was."""
        for container in (*self.created, *self.ended):
            container.reconnect().state()  # each is let in before the next comes
        for container in self.running:
            state = container.reconnect().state()
            expected = "PAUSED" if container in self.paused else "RUNNING"
            assert (pb.Status.Name(state.status), state.pid) == (expected, container.pid), container.id
        for container in self.execs:
            assert container.status("e") == "RUNNING"
        for container in self.created:
            assert container.status() == "CREATED"
        for number, container in enumerate(self.ended):
            assert container.wait() == number

    def begin_more(self, count: int) -> None:
        """The version that is there now starts some, too."""
        more = [self._sleeper() for _ in range(count)]
        self.sleeping += more
        self.waiters += [container.wait_later(timeout=300).arrived() for container in more]
        self.inputs.append(Fed(self.pod, terminal=False))
        self.terminals.append(Fed(self.pod, terminal=True))
        self.logs.append(Fed(self.pod, terminal=False, logged=True))
        assert self.pod.with_wasm("trap").build().start().wait() == 134
        self.look()

    def finish(self) -> None:
        """Whatever version began something, the one that is there now brings it to its end."""
        for number, container in enumerate(self.created):
            assert container.start().wait() == number
        for container in self.paused:
            container.connection.call("Resume", pb.ResumeRequest(id=container.id))
            container.kill(signal.SIGUSR1)
            assert container.wait() == 128 + signal.SIGUSR1
        for each in (*self.inputs, *self.terminals, *self.logs):
            each.finish()
        for container in self.execs:
            container.kill(signal.SIGTERM, exec_id="e")
        _check(self.exec_waiters, [143] * len(self.exec_waiters))
        numbers = [ENDS[number % len(ENDS)] for number in range(len(self.sleeping))]
        for container, number in zip(self.sleeping, numbers, strict=True):
            container.kill(number)
        _check(self.waiters, [128 + number for number in numbers])
        for container in self.execs:
            container.kill(signal.SIGKILL)
            assert container.wait() == 137
        for container in (*self.running, *self.created, *self.ended):
            container.delete()
        self.sandbox.cancel()
        self.pod.shutdown()
        self.pod.close()
        until("no worker is left", lambda: not self.daemon.workers())
        assert self.daemon.mounts() == []


class Fed:
    """A guest that gives back what it is given, of which it has half."""

    def __init__(self, pod: Pod, terminal: bool, logged: bool = False) -> None:
        self._terminal = terminal
        builder = pod.with_wasm(guest("cat")).fifos("stdin")
        self._log = builder.bundle / "console.log"
        if logged:
            builder.streams(stdout="", stderr="").config["annotations"] |= {"log.console.file": str(self._log)}
        else:
            builder.fifos("stdout")
        if terminal:
            builder.terminal().streams(stderr="")
        self.container = builder.build()
        self._output = None if logged else Collected(self.container.bundle / "stdout")
        self.container.start()
        self._input = (self.container.bundle / "stdin").open("w")
        self._write(HALF)

    def _write(self, text: str) -> None:
        self._input.write(text)
        self._input.flush()

    def finish(self) -> None:
        """The other half, and the end of input by CloseIO while its writer is still there."""
        self._write("second half\n")
        if self._terminal:
            request = pb.ResizePtyRequest(id=self.container.id, width=80, height=25)
            self.container.connection.call("ResizePty", request)
        self.container.close_stdin()
        assert self.container.wait() == 0
        self._input.close()
        typed = f"{HALF}second half\n"
        if self._output is None:
            assert typed.strip() in self._log.read_text()
        else:
            assert self._output.text() == (typed.replace("\n", "\r\n") * 2 if self._terminal else typed)


def _check(waiters: Sequence[Waiter], statuses: Sequence[int]) -> None:
    assert [waiter.result().exit_status for waiter in waiters] == list(statuses)
