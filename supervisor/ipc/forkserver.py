"""The supervisor's side of the forkserver: starts, signals, and the exits that come back."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from sandbox_api import calls
from sandbox_api.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfDescriptors,
    OutOfProcesses,
    SandboxerError,
    Unavailable,
)
from workers import protocol
from workers.greeting import FORKSERVER, Filters, Hello
from workers.image_protocol import ImageReport, ImageRequest
from workers.start_request import REPORT, StartRequest

from ..host import proc
from ..host.counters import Counters
from ..host.futures import fail
from . import reports
from .earlier_forkservers import EarlierForkservers
from .forkserver_connection import ForkserverConnection
from .inventory import Ended, Inventory, Started


@dataclass(slots=True)
class _Start:
    """A start under way: the fork's answer, and the exit where the worker has ended already."""

    forked: asyncio.Future[int]
    pid: int = 0
    imaged: bool = False
    lost: bool = False
    """The forkserver died in the middle of it."""
    killed: bool = False
    """We killed it in the middle of it."""
    given_up: bool = False
    """We killed it because we are ending."""
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    ended: Ended | None = None


def label(path: str) -> str:
    """A stand-in for the socket's path on the forkserver's command line, which every worker's memory has.

    It ends with the socket's name, and tells nothing of the folder but whether it is the same.
    """
    folder, _, name = path.rpartition("/")
    return f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}/{name}"


class ForkserverClient:
    """Starts instances through our forkserver; signals and exits go by the one that has the instance."""

    def __init__(self, path: str, filters: Filters, image_memory: int = 0, counters: Counters | None = None) -> None:
        """``image_memory`` is how many bytes images of loaded modules may take; 0 makes none."""
        self._filters = filters
        self._image_memory = image_memory
        self._counters = counters or Counters()
        self._path = path
        self._own = ForkserverConnection(path, label(path), self.exited, self._lost, self._frame, self._fail_starts)
        self._helper = self._own.helper
        self.earlier = EarlierForkservers(path, self.exited)
        """Those that other builds left."""
        self._on_exits: Callable[[list[Ended]], None] | None = None
        self._on_lost: Callable[[], None] | None = None
        self.on_image: Callable[[ImageReport], None] = lambda report: None
        """Told what becomes of images."""
        self._starts: dict[int, _Start] = {}
        self._about_to_tell: set[int] = set()
        # Instances with their pids: workers that were ended in their start. Kept: an exit may be told more than once.
        self._undone: set[tuple[int, int]] = set()
        self._open = asyncio.Event()
        """Starts may go on; they wait while the forkserver is renewed."""
        self._open.set()
        self.last_start = 0.0
        """When an instance was last started, by the loop's clock; 0 is never, with this forkserver."""

    @property
    def connected(self) -> bool:
        """Whether there is a forkserver that has not hung up."""
        return self._helper.connected

    @property
    def pid(self) -> int:
        """The forkserver's pid; 0 where there is none."""
        return self._helper.peer

    @property
    def pids(self) -> set[int]:
        """Pids of the forkserver, if we started it, of those of other builds, and of starts under way."""
        return {self._helper.pid, *self.earlier.pids, *(start.pid for start in self._starts.values())}

    async def connect(self, on_exits: Callable[[list[Ended]], None], on_lost: Callable[[], None]) -> Inventory:
        """Join the forkserver, or start one. From now on exits and the connection's loss go to these callbacks.

        Raises ``HelperFailed``.
        """
        self._on_exits, self._on_lost = on_exits, on_lost
        return await self._own.connect(Hello(FORKSERVER, self._filters, self._image_memory))

    async def join_earlier(self) -> tuple[dict[int, int], list[Ended]]:
        """Join the forkservers that other builds left; what they run, and what has ended. Raises ``HelperFailed``."""
        return await self.earlier.join()

    async def ping(self) -> None:
        """Return when the forkserver has answered. Raises ``Unavailable`` where there is none."""
        await self._own.ping()

    def prepare(self, request: ImageRequest, product: int) -> None:
        """Have an image of this opened product made, behind the scenes. Raises ``Unavailable``."""
        self._helper.send(protocol.PREPARE, request.encode(), [product])

    async def start(self, request: StartRequest) -> Started:
        """Run an instance; answers once the module is instantiated and about to run, or its start section runs.

        The request's descriptors are all but the report pipe. Raises a ``SandboxerError`` when it does
        not come to that; then no process is left, and its exit is not reported.
        """
        await self._open.wait()
        self.last_start = asyncio.get_running_loop().time()
        name = request.instance
        report, theirs = os.pipe2(os.O_CLOEXEC)
        start = self._starts[name] = _Start(asyncio.get_running_loop().create_future())
        try:
            try:
                request.descriptors.put(REPORT, theirs)
                self._helper.send(protocol.START, request.encode(), request.descriptors.fds)
                with self._counters.stages["fork"].time():
                    pid = await start.forked
            except Unavailable:
                os.close(theirs)
                theirs = -1
                if start.lost:
                    said, _ = await reports.read(report)
                    self._undone.add((name, protocol.unpack_report(said)[0]))
                    await reports.undo(said)
                    start.ended = None
                raise
            finally:
                if theirs >= 0:
                    os.close(theirs)
            began = time.perf_counter()
            said, whole = await reports.read(report)
            _, loaded, verdict = protocol.unpack_report(said)
            if verdict[:1] == protocol.READY and not start.given_up:
                self._counters.stages["load"].observe(time.perf_counter() - began)
                return Started(pid, start.imaged)
            in_start_section = loaded and not verdict and not start.given_up
            if in_start_section and not whole:
                return Started(pid, start.imaged)
            if not await _exits_soon(start):
                if in_start_section:
                    return Started(pid, start.imaged)  # it has closed its report
                with suppress(SandboxerError):
                    await self.kill(name, signal.SIGKILL)  # no worker of ours says that and goes on
                await start.exited.wait()
            if start.given_up:
                start.ended = None
                self.acknowledge([name])
                raise calls.ending()
            if start.lost:
                self.acknowledge([name])
                start.ended = None
                raise Unavailable("the forkserver died: try again")
            assert start.ended is not None
            if in_start_section and start.ended.status != signal.SIGKILL:
                return Started(pid, start.imaged)  # it ended in its start section
            self.acknowledge([name])
            ended, start.ended = start.ended, None
            raise reports.refusal(verdict, ended.status, start.killed, loaded)
        finally:
            os.close(report)
            del self._starts[name]
            if start.ended is not None:
                # It has run and ended already. The caller must first have noted that it ran.
                self._about_to_tell.add(name)
                asyncio.get_running_loop().call_soon(self._tell_late, start.ended)

    async def kill(self, instance: int, number: int) -> None:
        """Send a signal to an instance of our forkserver's, or of one that another build left.

        Raises ``NotFound`` where it has ended, or is no forkserver's; ``Unavailable`` where there is none.
        """
        if number == signal.SIGKILL and instance in self._starts:
            self._starts[instance].killed = True
        error = await (self.earlier.of(instance) or self._own).kill(instance, number)
        if error == errno.ESRCH:
            raise NotFound("the process has ended")
        if error:
            raise Internal(f"signal {number}: {os.strerror(error)}")

    def give_up_starts(self) -> None:
        """Undo the starts that are under way: the daemon ends, and does not wait for them."""
        for instance, start in self._starts.items():
            start.given_up = start.killed = True
            if not start.forked.done():
                start.forked.set_exception(calls.ending())
            else:
                try:
                    self._own.kill_unheard(instance, signal.SIGKILL)
                except Unavailable:
                    start.exited.set()

    @property
    def starting_any(self) -> bool:
        """Whether a start is under way."""
        return bool(self._starts)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Have starts wait meanwhile."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    @property
    def fresh(self) -> bool:
        """Whether the forkserver was started by us, and not joined."""
        return self._helper.pid != 0

    def answers(self) -> bool:
        """Whether a forkserver listens, although its connection to us was lost."""
        return self._helper.answers()

    def workers(self) -> Iterator[int]:
        """Pids of all workers that were ever forked for this path, of any parent."""
        return proc.find("wasm-worker", label(f"{self._path.rpartition('/')[0]}/forkserver"))

    def lost_starts(self) -> dict[int, int]:
        """Starts under way that have a process, and whose forkserver is gone: instances and pids.

        Not those whose end was told: the forkserver has buried them, and nobody else could tell their status.
        """
        lost = {instance: start for instance, start in self._starts.items() if start.lost and not start.ended}
        return {instance: start.pid for instance, start in lost.items() if start.pid}

    def starting(self, pid: int) -> int:
        """The instance whose start is under way as this process; 0 where there is none."""
        return next((instance for instance, start in self._starts.items() if start.pid == pid), 0)

    def knows_end(self, instance: int) -> bool:
        """Whether an instance has ended, and its exit is about to be told."""
        return instance in self._about_to_tell

    def acknowledge(self, instances: Sequence[int]) -> None:
        """Let the forkserver forget these exits, which are on record. Acknowledgements are sent soon, many at once."""
        if self.earlier:
            instances = self.earlier.acknowledge(instances)
        if instances:
            self._own.acknowledge(instances)

    def shut_down(self) -> None:
        """Tell all forkservers to kill what runs and go."""
        self.earlier.shut_down()
        self._own.shut_down()

    def close(self) -> None:
        """Disconnect; the forkservers keep running."""
        self.earlier.close()
        self._own.close()

    def _frame(self, frame: protocol.Frame) -> None:
        if frame.kind == protocol.FORKED:
            instance, pid, error, imaged = protocol.first_numbers(frame.body, 4)
            start = self._starts.get(instance)
            if start is None or start.forked.done():
                return
            if error == errno.E2BIG:
                start.forked.set_exception(InvalidArgument("the arguments and the environment are too long together"))
            elif error == errno.ELIBACC:
                start.forked.set_exception(FailedPrecondition("its engine does not load: the log says why"))
            elif error:
                limits = "the forkserver's open-file limit" if error == errno.EMFILE else "pid_max, pids.max or memory"
                kind = OutOfDescriptors if error == errno.EMFILE else OutOfProcesses
                start.forked.set_exception(kind(f"no process could be forked: {os.strerror(error)} ({limits})"))
            elif not pid:
                self._counters.helper_deaths["zygote"] += 1
                start.forked.set_exception(Unavailable("the forkserver's zygote died: try again"))
            else:
                start.pid, start.imaged = pid, bool(imaged)
                start.forked.set_result(pid)
        elif frame.kind == protocol.IMAGE:
            self.on_image(ImageReport.decode(frame.body))

    def exited(self, exits: list[Ended]) -> None:
        """Dispatch exits from any source: to starts under way, or to ``on_exits``."""
        told = []
        for ended in exits:
            start = self._starts.get(ended.instance)
            if (ended.instance, ended.pid) in self._undone:  # it may be started again, and counts as never started
                self.acknowledge([ended.instance])
            elif start is None:
                told.append(ended)
            else:
                start.ended = ended
                start.exited.set()
        self._tell(told)

    def _tell(self, exits: list[Ended]) -> None:
        if exits and self._on_exits is not None:
            self._on_exits(exits)

    def _tell_late(self, ended: Ended) -> None:
        self._about_to_tell.discard(ended.instance)
        self._tell([ended])

    def _lost(self) -> None:
        if self._on_lost is not None:
            self._on_lost()

    def _fail_starts(self) -> None:
        error = Unavailable("the forkserver died: try again")
        for start in self._starts.values():
            start.lost = True
            fail(start.forked, error)


async def _exits_soon(start: _Start) -> bool:
    """Whether a worker that has reported all it will exits within ``reports.START_SECTION_SECONDS``."""
    try:
        async with asyncio.timeout(reports.START_SECTION_SECONDS):
            await start.exited.wait()
    except TimeoutError:
        return False
    return True
