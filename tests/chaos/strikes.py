"""Strikes at a daemon: deaths, other versions, stops, full disks, no memory, a clock that jumps, peers and frames."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import socket
import time
from pathlib import Path

import psutil

from sandbox_api.proto import ttrpc_pb2
from sandbox_api.ttrpc import frames
from workers import protocol, relay_protocol

from .model import Shared
from .node import LOST, NAMES, TWICE, Node

DAY = 86400
FRAME_SECONDS = 1.0
"""Seconds that a strike waits for the daemon to send as many frames as it wants."""


class Strikes:
    """What may happen to a node. Each strike draws from ``self._random``, which is its own."""

    _random: random.Random

    def __init__(self, daemon: Node, shared: Shared) -> None:
        self.daemon = daemon
        self.shared = shared

    # Deaths.

    def _supervisor(self) -> None:
        self._end_supervisor()
        time.sleep(self._random.choice([0, 0, self._random.uniform(0, 0.5)]))
        self.daemon.start()

    def _switch(self) -> None:
        """Another version takes over: an upgrade, or a rollback."""
        self.shared.count("switches")
        self._end_supervisor()
        self.daemon.switch()
        self.daemon.start()

    def _end_supervisor(self, kill: bool = False) -> None:
        self.shared.count("supervisor")
        assert self.daemon.process is not None
        supervisor = self.daemon.process.pid
        kill = kill or self._random.random() < 0.6
        # Orphans of a dead forkserver are init's children: an exit just now is reported to init alone.
        adopted = any(worker.info["ppid"] == supervisor for worker in self.daemon.all_workers())
        if adopted:
            self._blind()
        if kill:
            self.daemon.kill()
        else:
            self.daemon.stop()
        if adopted:
            self._blind()

    def _forkserver(self) -> None:
        """One of those that are there: the daemon's own, or one that another version left."""
        self._random.random()
        servers = self.daemon.all_of("forkserver")
        if not servers:
            return
        server = self._random.choice(servers)
        self.shared.count("forkserver")
        self._end_forkserver(server, self._random.choice([signal.SIGKILL, signal.SIGTERM]))
        deadline = time.monotonic() + 10
        while not self.daemon.all_of("forkserver"):
            if time.monotonic() > deadline:
                self.shared.complain("no new forkserver within 10 s")
                return
            time.sleep(0.02)

    def _end_forkserver(self, server: psutil.Process, number: int) -> None:
        """Its workers become init's where the daemon did not start it: one that ends just then has told nobody."""
        assert self.daemon.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            ours = server.ppid() == self.daemon.process.pid
            if not ours:
                self._blind()
            server.send_signal(number)
            server.wait(10)
            if not ours:
                self._blind()

    def _both(self) -> None:
        servers = self.daemon.all_of("forkserver")
        first = self._random.random() < 0.5
        if first:
            self._end_supervisor()
        self._blind()
        for server in servers:
            self.shared.count("forkserver")
            with contextlib.suppress(psutil.NoSuchProcess):
                server.kill()
                server.wait(10)
        if not first:
            self._end_supervisor()
        time.sleep(self._random.choice([0, self._random.uniform(0, 0.3)]))
        self._blind()  # before clients hear of it, and once more: while the forkservers died, others were started
        self.daemon.start()
        self._blind()

    def _while_it_starts(self) -> None:
        """Death in the middle of recovery, of either version."""
        self._end_supervisor()
        for _ in range(self._random.randint(1, 3)):
            if self._random.random() < 0.5:
                self.daemon.switch()
            self.daemon.launch()
            time.sleep(self._random.uniform(0, 0.8))
            self._end_supervisor(kill=True)
        self.daemon.start()

    def _relay(self) -> None:
        """Terminals hang up, and inputs end, which no guest here reads."""
        again = self._random.random() < 0.3
        relays = self.daemon.all_of("relay")
        if relays:
            relay = self._random.choice(relays)
            self.shared.count("relay")
            self.shared.hung_up.append(time.monotonic())  # clients see it at once
            with contextlib.suppress(psutil.NoSuchProcess):
                relay.kill()
                relay.wait(10)
            self.shared.hung_up.append(time.monotonic())  # and of those that were started meanwhile
        if again:  # before there is another
            self._supervisor()

    # What comes and goes.

    def _suspend(self) -> None:
        """A helper is stopped for a while, and the supervisor may die meanwhile."""
        self.shared.count("suspended")
        name, seconds = self._random.choice(NAMES), self._random.uniform(0.05, 1.5)
        dies = self._random.random() < 0.4
        stopped = self.daemon.all_of(name)
        for helper in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                helper.suspend()
        time.sleep(seconds)
        if dies:
            self._end_supervisor(kill=True)  # it cannot end in order: the helper does not answer
        for helper in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                helper.resume()
        if dies:
            self.daemon.start()

    def _full_disk(self) -> None:
        self.shared.count("full disks")
        seconds = self._random.uniform(0.1, 1.0)
        with self.shared.short(), self.daemon.full_disk():
            time.sleep(seconds)

    def _no_memory(self) -> None:
        """A process gets no more address space for a while. If that is the daemon's end, it begins again."""
        self.shared.count("no memory")
        name, more = self._random.choice(["supervisor", "forkserver"]), self._random.choice([0, 64 << 10, 1 << 20])
        seconds = self._random.uniform(0.05, 0.5)
        assert self.daemon.process is not None
        supervisor = psutil.Process(self.daemon.process.pid)
        victims = [supervisor] if name == "supervisor" else self.daemon.all_of(name)
        with self.shared.short():
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.rlimit(resource.RLIMIT_AS, (victim.memory_info().vms + more, resource.RLIM_INFINITY))
            time.sleep(seconds)
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if self.daemon.process.poll() is not None:
            self.shared.count("supervisor")
            self.daemon.kill()
            self.daemon.start()

    def _clock(self) -> None:
        """The daemon's wall clock jumps, and stays there until the next jump."""
        self.shared.count("jumps")
        self.daemon.jump(self._random.choice([-400 * DAY, -DAY, -3600, -1, 0, 1, 3600, DAY, 400 * DAY]))

    def _frame(self) -> None:
        """A frame that the daemon sends to a helper or a client is lost with its connection, or comes twice."""
        what, after = self._random.choice([LOST, TWICE]), self._random.randrange(1, 60)
        self.daemon.misplace(what, after)
        deadline = time.monotonic() + FRAME_SECONDS
        while not self.daemon.misplaced() and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.daemon.misplaced():
            self.shared.count("frames lost" if what == LOST else "frames twice")
        self.daemon.misplace(what, 0)

    def _intrude(self) -> None:
        """Frames cut short, twice or of no kind, on a socket that others use, too; and the peer vanishes."""
        self.shared.count("broken peers")
        where = self._random.choice([*NAMES, "task.sock", "api.sock", "info.sock"])
        paths: list[Path] = (
            sorted(self.daemon.dir.glob(f"{where}-*.sock")) if where in NAMES else [self.daemon.dir / where]
        )
        if where == "api.sock":
            paths = [self.daemon.listen]
        data = self._broken(where)
        for path in paths:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(1)
                peer.connect(str(path))
                peer.sendall(data)
                if self._random.random() < 0.5:
                    peer.recv(1 << 16)

    def _broken(self, where: str) -> bytes:
        if where == "task.sock":
            request = ttrpc_pb2.Request(service="containerd.task.v2.Task", method="State", payload=b"\x0a\x01x")
            frame = frames.encode(1, frames.REQUEST, request.SerializeToString())
        elif where == "forkserver":
            frame, _ = protocol.encode(protocol.KILL, protocol.pack_numbers(1, 1 << 60, 0))
        elif where in NAMES:
            frame, _ = protocol.encode(relay_protocol.CLOSE, protocol.pack_numbers(1 << 60))
        else:
            frame = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
        cut = frame[: self._random.randrange(len(frame))]
        return self._random.choice([frame * 2, frame * 2 + cut, cut, frame + self._random.randbytes(64)])

    def _blind(self) -> None:
        self.shared.blind.append(time.monotonic())
