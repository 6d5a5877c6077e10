"""The forkserver: one thread that forks workers and, as their parent, keeps every exit until it is acknowledged.

It outlives the supervisor. Each time a supervisor connects, it is told which instances run and which
exits nobody has acknowledged; so no exit is lost, whichever process is killed when.
"""

from __future__ import annotations

import _signal  # the signal module imports enum
import _socket
import gc
import posix
import select
import sys
import time

from . import boot, engines, linux, worker
from .calls.call_list import PartialList
from .confinement import code_pages, confinement, seccomp
from .engines.engine import Engine, EngineMissing
from .greeting import EXIT_NUMBERS, FORKSERVER, KEEPING, Filters, Hello, Welcome
from .image_protocol import ImageRequest
from .images.cache import ImageCache
from .images.initialization import MOST, Initialization
from .protocol import (
    ACK,
    END,
    EXITED,
    FORKED,
    HELLO,
    IMAGE,
    KILL,
    KILLED,
    PING,
    PONG,
    PREPARE,
    START,
    WELCOME,
    Frame,
    ProtocolError,
    Reader,
    first_numbers,
    pack_numbers,
    pack_rows,
    send,
    unpack_numbers,
)
from .start_request import FOLDER, MODULE, NATIVE, StartRequest
from .templates import ImageMaker
from .zygote import RootReplaced, ZygoteDied, zygotes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .images.image import Image

IDLE_SECONDS = 30
"""Seconds that it stays with no supervisor, no instance and no exit to tell."""
LISTS, LONGEST_LIST = 32, 64 << 10
"""How many call lists are kept, and of how many bytes at most each."""
RECHECK_SECONDS, BUSY_SECONDS = 1, 5
"""Seconds after an exit, without an event or with some, until it looks for any whose signal was lost (SIGPENDING)."""
NO_ENGINE = 79  # ELIBACC
_ENDS = (_signal.SIGCHLD, linux.EXIT_SIGNAL)


class Forkserver:
    """The loop and its two tables: what runs, and what has ended and was not acknowledged yet."""

    def __init__(self, listener: boot.ControlListener, loaded: dict[bytes, Engine]) -> None:
        self._listener = listener
        self._engines = loaded
        self._reporter = seccomp.Reporter()
        self._zygotes = zygotes(loaded, self._reporter)
        self._confinement = confinement.Confinement(Filters())
        code_pages.seal()
        self._images = ImageCache(lambda report: self._send(IMAGE, report.encode()))
        self._lists: dict[bytes, PartialList] = {}  # workers' call lists by request; the last used at the end
        self._running: dict[int, int] = {}  # pid to instance
        self._pids: dict[int, int] = {}  # instance to pid
        self._exits: dict[int, tuple[int, int, int, int]] = {}
        """By instance: pid, wait status, nanoseconds, and the forbidden system call that ended it or -1."""
        self._supervisor: _socket.socket | None = None
        self._reader: Reader | None = None
        self._ending = False
        self._keeping = False  # another forkserver starts what is new
        self._rechecked, self._recheck_by = True, 0.0
        self._mask = linux.signals(*_ENDS)
        self._maker = ImageMaker(self._images, self._zygotes, loaded, bytes(self._mask))
        self._watched = -1  # where the maker speaks
        linux.sigprocmask(linux.SIG_BLOCK, self._mask)
        self._children = linux.signalfd(self._mask)
        self._poll = select.poll()
        for fd in (listener.fileno(), self._children):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Serve until told to end, or until idle for long without a supervisor."""
        gc.disable()  # nothing here makes cycles, and its passes write to every object
        while not (self._ending and not self._running):
            needed = self._supervisor is not None or self._running or self._exits
            left = self._maker.seconds_left
            seconds: float | None = RECHECK_SECONDS if not self._rechecked else None if needed else IDLE_SECONDS
            if left is not None:
                seconds = max(0, min(left, IDLE_SECONDS if seconds is None else seconds))
            events = self._poll.poll(None if seconds is None else int(seconds * 1000) + 1)
            if not self._rechecked and (not events or time.monotonic() > self._recheck_by):
                self._rechecked = True
                self._reap_all()
            elif not events and not needed and left is None:
                return
            called = False
            for fd, _ in events:
                if fd == self._children:
                    self._reap_signalled()
                elif fd == self._listener.fileno():
                    called = True
                elif fd == self._watched:
                    self._maker.receive()
                else:
                    self._receive()
            self._maker.give_up_overdue()
            self._watch_maker()
            if called:  # last: the connection may have the number of a descriptor that this round reported or closed
                self._accept()

    def _accept(self) -> None:
        """A new supervisor takes the place of the one before."""
        self._hang_up()
        self._supervisor = self._listener.accept()
        if self._supervisor is None:
            return
        self._reader = Reader(self._supervisor)
        self._poll.register(self._supervisor.fileno(), select.POLLIN)

    def _hang_up(self) -> None:
        if self._supervisor is not None and self._reader is not None:
            self._poll.unregister(self._supervisor.fileno())
            self._reader.close()
            self._listener.left()
        self._supervisor = self._reader = None

    def _send(self, kind: int, body: bytes) -> None:
        if self._supervisor is not None:
            try:
                send(self._supervisor, kind, body)
            except OSError:
                self._hang_up()

    def _receive(self) -> None:
        if self._reader is None:
            return
        try:
            if not self._reader.receive():
                self._hang_up()
                return
            for frame in self._reader.frames():
                self._handle(frame)
        except (ProtocolError, OSError, ValueError, MemoryError) as error:  # ValueError: too few numbers, or too many
            print(f"forkserver: supervisor dropped: {error}", file=sys.stderr)
            self._hang_up()

    def _handle(self, frame: Frame) -> None:
        try:
            if frame.kind in (START, PREPARE) and self._keeping:
                raise ProtocolError("it is to start no more")
            if frame.kind == START:
                self._start(frame)
            elif frame.kind == PREPARE:
                if len(frame.fds) == 1:  # else it was lost, and a start asks again
                    self._maker.want(ImageRequest.decode(frame.body), frame.fds[0])
            elif frame.kind == KILL:
                serial, instance, number = first_numbers(frame.body, 3)
                self._send(KILLED, pack_numbers(serial, self._kill(instance, number)))
            elif frame.kind == ACK:
                for instance in unpack_numbers(frame.body):
                    self._exits.pop(instance, None)
            elif frame.kind == HELLO:
                self._greet(Hello.decode(frame.body))
            elif frame.kind == PING:
                self._send(PONG, b"")
            elif frame.kind == END:
                self._ending = True
                for pid in self._running:
                    posix.kill(pid, _signal.SIGKILL)
            else:
                raise ProtocolError(f"no message of kind {frame.kind}")
        finally:
            frame.close()

    def _greet(self, hello: Hello) -> None:
        """Take what a new supervisor brings, and say what there is; to one that could not speak of it, our versions."""
        if hello.keeping is None or not KEEPING.common(hello.keeping):
            self._send(WELCOME, Welcome(FORKSERVER).encode())
            raise ProtocolError(f"it speaks protocol {hello.versions}, and this forkserver {FORKSERVER}")
        self._keeping = hello.keep or not FORKSERVER.common(hello.versions)
        self._maker.forget_waiting()
        self._lists.clear()
        if self._keeping:
            self._images.limit(0)
        else:
            self._prepare(hello)
        running = [number for pair in self._pids.items() for number in pair]
        exits = [number for instance, ended in self._exits.items() for number in (instance, *ended)]
        versions = {name: engine.version.encode() for name, engine in self._engines.items() if engine.ready}
        refused = max(zygote.no_empty_root for zygote in self._zygotes.values())
        images = [report.encode() for report in self._images.reports()]
        welcome = Welcome(FORKSERVER, versions, self._confinement.landlock_abi, running, exits, refused, images)
        self._send(WELCOME, welcome.encode())

    def _prepare(self, hello: Hello) -> None:
        """Be ready for starts as this supervisor wants them."""
        self._confinement = confinement.Confinement(hello.filters)
        self._reporter.names = hello.filters.names
        self._maker.confinement = self._confinement
        self._images.limit(hello.image_memory)
        for zygote in set(self._zygotes.values()):
            try:
                zygote.prepare()
            except OSError as error:  # it is tried again when it is needed
                print(f"forkserver: no zygote yet: {error.strerror}", file=sys.stderr)
            except EngineMissing as error:
                print(f"forkserver: {error}", file=sys.stderr)

    def _start(self, frame: Frame) -> None:
        request = StartRequest.decode(frame.body, worker.FIRST_FD)
        if frame.lost:
            self._send(FORKED, pack_numbers(request.instance, 0, 24, 0))  # EMFILE
            return
        if len(frame.fds) != len(request.descriptors.fds):
            raise ProtocolError(f"instance {request.instance}: {len(frame.fds)} descriptors do not fit it")
        if request.instance in self._pids:
            raise ProtocolError(f"instance {request.instance}: it runs already")
        if request.engine not in self._engines:
            raise ProtocolError(f"instance {request.instance}: there is no engine {request.engine!r}")
        try:
            pid, imaged = self._fork(request, frame)
        except OSError as error:
            self._send(FORKED, pack_numbers(request.instance, 0, error.errno or 0, 0))
            return
        except EngineMissing as error:
            print(f"forkserver: {error}", file=sys.stderr)
            self._send(FORKED, pack_numbers(request.instance, 0, NO_ENGINE, 0))
            return
        except ZygoteDied:
            self._send(FORKED, pack_numbers(request.instance, 0, 0, 0))
            self._kill_unreported()
            return
        self._running[pid] = request.instance
        self._pids[request.instance] = pid
        self._send(FORKED, pack_numbers(request.instance, pid, 0, imaged))

    def _fork(self, request: StartRequest, frame: Frame) -> tuple[int, bool]:
        """Fork a worker: its pid, and whether from an image of its module. Raises as ``Zygote.fork``."""
        zygote, engine = self._zygotes[request.engine], self._engines[request.engine]
        key = image = before = None
        few = not request.initialize or len(request.preopens) <= MOST
        if request.imageable and request.module_kind == NATIVE and engine.images and few:
            product = frame.fds[request.descriptors.one(MODULE) - worker.FIRST_FD]
            wanted = ImageRequest(request.imageable, request.engine, request.function, request.max_pages)
            if request.initialize:
                folders = [frame.fds[fd - worker.FIRST_FD] for fd in request.descriptors.all(FOLDER)]
                before = Initialization(request, folders)
            key = self._maker.key(wanted, product, before)
            image = self._images.find(key)
        if image is not None:
            try:
                code = self._build(request, frame.body, image)
                pid = zygote.fork(code, [*frame.fds, image.fileno()], zygote.roots, engine.bare)
            except RootReplaced:
                self._maker.forget_waiting()
                self._images.clear("the root zygote was replaced")
            else:
                self._images.hold(image, pid)
                return pid, True
        if engine.apart:
            return zygote.fork_built(lambda: self._build(request, frame.body), frame.fds), False
        pid = zygote.fork(self._build(request, frame.body), frame.fds)
        if key is not None and self._images.often(key):
            self._maker.want(wanted, product, before)
        return pid, False

    def _watch_maker(self) -> None:
        """Have what is made now looked at, and no longer what was made before."""
        fd = self._maker.fileno()
        if fd != self._watched:
            if self._watched >= 0:
                self._poll.unregister(self._watched)
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)
            self._watched = fd

    def _build(self, request: StartRequest, body: bytes, image: Image | None = None) -> bytes:
        """Build the worker's call list, from one of the last ones where a request was like it.

        Replicas and probes are alike but for number, arguments and environment.
        """
        zygote = self._zygotes[request.engine]
        likeness = request.likeness(body) + b"%d %d" % (zygote.roots, image.serial if image else 0)
        built = self._lists.pop(likeness, None)
        if built is None:
            calls = zygote.calls()
            engine = self._engines[request.engine]
            places = zygote.places if engine.bare else None
            worker.build(calls, request, engine, self._confinement, bytes(self._mask), image, places)
            built = zygote.finish(calls)
            if len(self._lists) >= LISTS:
                del self._lists[next(iter(self._lists))]
        if len(built) <= LONGEST_LIST:
            self._lists[likeness] = built
        return built.complete(request.args, request.env)

    def _kill_unreported(self) -> None:
        """Kill the worker, if there is one, whose zygote died before reporting it."""
        roots = {zygote.root_pid for zygote in self._zygotes.values()}  # a new one would know the requests so far
        with open(f"/proc/self/task/{posix.getpid()}/children", "rb") as file:
            for pid in map(int, file.read().split()):
                if pid not in self._running and pid not in roots:
                    posix.kill(pid, _signal.SIGKILL)

    def _kill(self, instance: int, number: int) -> int:
        """Send a signal. As the reaper, only the forkserver knows that the pid is still this instance's."""
        pid = self._pids.get(instance)
        if pid is None:
            return 3  # ESRCH
        try:
            posix.kill(pid, number)
        except OSError as error:
            return error.errno or 0
        return 0

    def _reap_signalled(self) -> None:
        """Reap the children that have ended: each has sent a signal of its own, which says who it was.

        So it costs the same however many live. To ask for any that has ended is to look at all of them, 0.7 ms with
        20,000, and only where there is no clone3(2), and one SIGCHLD may stand for many (signal(7)), it is done.
        """
        if self._rechecked:
            self._rechecked, self._recheck_by = False, time.monotonic() + BUSY_SECONDS
        pids = []
        # Not read from the descriptor: that knows pids with SIGCHLD alone.
        while (said := _signal.sigtimedwait(_ENDS, 0)) is not None:
            pids.append(said.si_pid)
        if linux.EXIT_SIGNAL == _signal.SIGCHLD:
            self._reap_all()
        else:
            self._reap(list(dict.fromkeys(pids)))  # one that was stopped, and ended, has sent two

    def _reap_all(self) -> None:
        """Reap every child that has ended."""
        while (found := linux.ended_child(posix.P_ALL, 0)) is not None:
            self._reap([found.si_pid])

    def _reap(self, pids: list[int]) -> None:
        """Note, report and reap these exits, many in one message.

        Each is looked at before it is reaped: a worker that died of a forbidden system call left its number. And
        reported before: if the forkserver dies in between, the supervisor inherits the child, and no exit is lost.
        """
        told: list[int] = []
        dead: list[int] = []
        for pid in pids:
            found = linux.ended_child(posix.P_PID, pid) if pid > 0 else None
            if found is None:  # a signal alone is no proof of an end
                continue
            dead.append(pid)
            instance = self._running.pop(pid, None)
            if instance is not None:
                del self._pids[instance]
                status = found.si_status << 8 if found.si_code == posix.CLD_EXITED else found.si_status
                call = seccomp.forbidden_call(pid) if found.si_status == _signal.SIGSYS else -1
                self._exits[instance] = ended = (pid, status, time.time_ns(), call)
                told += (instance, *ended)
        if told:
            self._send(EXITED, pack_rows(EXIT_NUMBERS, told))
        for pid in dead:
            self._images.reaped(pid)
            self._maker.reaped(pid)
            posix.waitpid(pid, linux.WALL)


def main() -> None:
    """Serve on a socket in the working directory: the entry point of a fresh interpreter.

    Its name is what follows the last slash of the last argument. Workers have our memory: it holds no path of a socket.
    """
    path = sys.argv[-1].rpartition("/")[2]
    try:
        loaded = engines.load()
        confinement.drop_bounding_set()
        boot.default_signals()
        linux.default_library_signals()
        listener = boot.ControlListener(path)
    except (EngineMissing, OSError) as error:
        boot.say_failed(error)
        sys.exit(1)
    boot.say_ready()
    try:
        Forkserver(listener, loaded).run()
    finally:
        listener.unlink()
