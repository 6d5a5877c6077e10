"""The zygote: forks workers, and does nothing else, so that its memory stays as it is.

A fork keeps a copy of each page that its parent writes to later. So the forkserver, which is Python and writes with
every instruction, forks no worker itself. It sends a list of calls to the zygote, which it has forked for that
purpose. The zygote, by a list of its own and without Python, receives that, forks, and answers with the pid.
CLONE_PARENT makes the worker the forkserver's child (clone(2)).
"""

from __future__ import annotations

import _socket
import array
import ctypes
import errno
import marshal
import posix
import struct
import sys

from . import bare, failures, linux, worker
from .calls.call_list import ANY, NONZERO, At, CallList, Label, PartialList, Runner
from .confinement import empty_root, epitaph
from .engines.engine import EngineMissing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .confinement.seccomp import Reporter
    from .engines.engine import Engine

_CLONE_PARENT, _SIGCHLD = 0x8000, 17  # clone(2)
_CLONE = {"x86_64": 56, "aarch64": 220}.get(posix.uname().machine, -1)  # system call number
_SOCKET = worker.FIRST_FD - 1

# The zygote's memory for call lists, in as few pages as can be. Offsets in bytes, each behind the one before.
_RESULT = 0
"""The last call's result."""
_ANSWER = _RESULT + 8
"""The answer to the forkserver after a fork: the pid, or -1, and errno."""
_LENGTH = _ANSWER + 16
"""Length of the worker's list."""
_LOOP = _LENGTH + 8
"""The zygote's own list."""
_CONTROL = _LOOP + 1296
"""Ancillary data: struct cmsghdr, and more descriptors than can come (SCM_MAX_FD, unix(7))."""
_CONTROL_BYTES = 16 + 4 * 256
"""A worker, which receives nothing, has it for its epitaph."""
_LIST = _CONTROL + _CONTROL_BYTES
"""The worker's list."""
_BYTES = 4 << 20
_ROOTS = 3
"""How many root zygotes may be replaced during one start."""

_FLAGS = 48
"""Where in a struct msghdr (recvmsg(2)) the byte is that says, with MSG_CTRUNC, that descriptors found no room."""

_libc = ctypes.PyDLL(None, use_errno=True)


class RootReplaced(Exception):
    """The zygotes are not those that an image was taken from: nothing was forked."""


class ZygoteDied(Exception):
    """The zygote ended during a fork: there may be a worker, or none."""


class Zygote:
    """The forkserver's side of two processes.

    The root zygote is forked before any request is known, and forks nothing but worker zygotes; the worker zygote forks
    workers. So a worker zygote that died is replaced by one that knows nothing of any guest's. A second worker zygote,
    made when it is first needed, forks *bare* workers, which have no Python (``bare``).
    """

    def __init__(self, engines: dict[bytes, Engine], reporter: Reporter) -> None:
        """``engines`` are those of its workers: such as are primed, or one that is ``apart``.

        ``reporter`` names forbidden calls of theirs.
        """
        self._engines = engines
        self._runner = Runner()
        self._base = linux.map_memory(_BYTES, near=linux.behind_libraries())
        self._runner.place = self._base + _RESULT
        self._root: _socket.socket | None = None
        self._worker_zygotes: dict[bool, _socket.socket] = {}
        """By whether their workers are bare."""
        self._python: list[tuple[int, int]] = []
        """Where in the root zygote's memory Python lies."""
        self._reporter = reporter
        self._loop, self._forked = self._build()
        self.roots = 0
        """How many root zygotes there were. Forks of one have everything at the same addresses."""
        self.root_pid = 0
        """Pid of the root zygote; 0 where there was none yet."""
        self.pid = 0
        """Pid of the worker zygote whose workers have Python."""
        self._isolated = False
        self.no_empty_root = 0
        """The errno by which an empty root was refused: workers then have the host's."""

    def prepare(self) -> None:
        """Fork the root zygote, if there is none. Raises ``OSError``, and ``EngineMissing`` where it has no engine."""
        if self._root is not None:
            return
        if not self.no_empty_root:
            refusal = self._fork_root(isolate=True)
            if refusal and self._isolated:  # never less than before
                raise OSError(refusal, posix.strerror(refusal))
            self._isolated, self.no_empty_root = not refusal, refusal
        if self.no_empty_root:
            print(f"forkserver: workers have no empty root: {posix.strerror(self.no_empty_root)}", file=sys.stderr)
            self._fork_root(isolate=False)

    def _fork_root(self, isolate: bool) -> int:
        """Fork the root zygote: 0, or the errno by which an empty root was refused. Raises as ``prepare``."""
        ours, theirs = _pair()
        try:
            pid = linux.fork()
            if pid == 0:
                self._serve(theirs.fileno(), isolate)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        said = ours.recv(1 << 16)
        if not said:  # killed, for want of memory say: that is no refusal
            ours.close()
            raise OSError(errno.ESRCH, "the root zygote died at once")
        refusal = int.from_bytes(said[:8], sys.byteorder)
        if refusal:
            ours.close()
            return refusal
        states, missing, self._python = marshal.loads(said[8:])
        if missing:
            ours.close()
            raise EngineMissing(missing)
        for name, state in states.items():
            self._engines[name].adopt(state)
        self._root, self.root_pid = ours, pid
        self.roots += 1
        for is_bare in list(self._worker_zygotes):
            self._drop_worker_zygote(is_bare)
        return 0

    def calls(self) -> CallList:
        """A list that begins with the fork; all that is added to it is the worker's."""
        calls = CallList(failures.TOLD)
        flags = _CLONE_PARENT | _SIGCHLD
        calls.libc(
            "syscall", _CLONE, flags, 0, 0, 0, 0, out=self._base + _ANSWER, fails=ANY, orelse=Label(self._forked)
        )
        return calls

    def finish(self, calls: CallList) -> PartialList:
        """Finish a worker's list, but for the guest's arguments and environment."""
        return PartialList(calls, self._base + _LIST)

    @property
    def call_lists(self) -> tuple[int, int]:
        """Where call lists lie in a zygote's memory and its forks': begin and end."""
        return self._base, self._base + _BYTES

    @property
    def places(self) -> worker.Places:
        """Where a worker's list may go on: the zygote's own list is of no use to it. What lies behind is given back."""
        behind = (self._base + _LIST + linux.PAGE_BYTES - 1) & -linux.PAGE_BYTES
        return worker.Places(self._base + _LOOP, _CONTROL - _LOOP, behind, self._base + _BYTES)

    def fork(self, code: bytes, fds: list[int], root: int = 0, is_bare: bool = False) -> int:
        """Fork a worker that makes the calls of this list: its pid.

        The descriptors become the worker's, from ``worker.FIRST_FD`` on. With ``root`` it is a fork of that one of
        ``roots``, and with ``is_bare`` it has no Python. Raises ``OSError`` where there can be no process, or no room
        for them in it, or the list is too long, ``RootReplaced``, ``ZygoteDied`` and ``EngineMissing``.
        """
        if _LIST + len(code) > _BYTES:
            raise OSError(errno.E2BIG, posix.strerror(errno.E2BIG))
        number = 0
        for attempt in range(3):
            pid, number = self._fork(code, fds, root, is_bare)
            if pid >= 0:
                return pid
            if number != errno.EMFILE:
                break
            self._drop_worker_zygote(is_bare)  # it has the open-file limit of when it was forked
            if attempt:
                self._drop_root()
        raise OSError(number, posix.strerror(number))

    def fork_built(self, build: Callable[[], bytes], fds: list[int]) -> int:
        """Fork a worker whose list, as ``build`` makes it, has addresses of the root zygote's: its pid.

        Raises as ``fork``.
        """
        for _ in range(_ROOTS):
            self.prepare()
            try:
                return self.fork(build(), fds, self.roots)
            except RootReplaced:  # build again, for the new one
                pass
        raise ZygoteDied

    def _fork(self, code: bytes, fds: list[int], root: int, is_bare: bool) -> tuple[int, int]:
        """The worker's pid, or -1 and errno."""
        if root and root != self.roots:
            raise RootReplaced
        try:
            answer = _ask(self._worker_zygotes.get(is_bare), code, fds)
        except ZygoteDied:
            self._drop_worker_zygote(is_bare)
            raise
        if answer is None:  # there is none, or it had died before: nothing was begun
            self._drop_worker_zygote(is_bare)
            self._worker_zygotes[is_bare] = self._fork_worker_zygote(is_bare)
            if root and root != self.roots:
                raise RootReplaced
            answer = _ask(self._worker_zygotes[is_bare], code, fds)
        return answer or (-1, errno.ESRCH)

    def _fork_worker_zygote(self, is_bare: bool) -> _socket.socket:
        """Have the root zygote fork a worker zygote. Raises as ``prepare``."""
        ours, theirs = _pair()
        try:
            for _ in range(2):
                self.prepare()
                code = self._worker_zygote_list(is_bare)
                try:
                    answer = _ask(self._root, code, [theirs.fileno()])
                except ZygoteDied:
                    answer = None
                if answer is not None:
                    if answer[0] < 0:
                        raise OSError(answer[1], posix.strerror(answer[1]))
                    self.pid = self.pid if is_bare else answer[0]
                    return ours
                print("forkserver: the root zygote died: the next one knows the requests so far", file=sys.stderr)
                self._drop_root()
            raise OSError(errno.ESRCH, posix.strerror(errno.ESRCH))
        except (OSError, EngineMissing):
            ours.close()
            raise
        finally:
            theirs.close()

    def _worker_zygote_list(self, is_bare: bool) -> bytes:
        """Build the list of a worker zygote. What it marks, its forks do not have."""
        calls = self.calls()
        calls.libc("dup2", worker.FIRST_FD, _SOCKET)
        calls.libc("close_range", _SOCKET + 1, linux.LAST_FD, 0)
        calls.libc("prctl", linux.PR_SET_NAME, b"zygote-bare" if is_bare else b"zygote-worker", 0, 0, 0)
        for begin, length in self._python if is_bare else ():
            calls.libc("madvise", begin, length, linux.MADV_DONTFORK)
        calls.go(Label(self._base + _LOOP))
        return calls.finish(self._base + _LIST)

    def _drop_worker_zygote(self, is_bare: bool) -> None:
        """Close its socket, by which it ends."""
        sock = self._worker_zygotes.pop(is_bare, None)
        if sock is not None:
            sock.close()

    def _drop_root(self) -> None:
        """Close its socket, by which it ends."""
        if self._root is not None:
            self._root.close()
            self._root = None

    def _serve(self, sock: int, isolate: bool) -> None:
        """Be the root zygote, in an empty root or the host's. Never returns."""
        try:
            posix.dup2(sock, _SOCKET)
            linux.close_range(_SOCKET + 1, linux.LAST_FD)
            linux.prctl(linux.PR_SET_NAME, b"zygote-root")
            refusal, missing = 0, ""
            python: list[tuple[int, int]] = []
            try:
                named = epitaph.install(self._reporter.names, self._base + _CONTROL, self._runner)
                for engine in self._apart():
                    engine.prime()  # while there are files to load it from
                python = bare.python_ranges() if named else []
                if isolate:
                    empty_root.enter(keep_proc=any(engine.proc for engine in self._engines.values()))
                else:
                    posix.chdir(empty_root.PROC)
            except EngineMissing as error:
                missing = str(error)
            except OSError as error:
                refusal = error.errno or errno.EIO
            states = {engine.name: engine.state() for engine in self._apart()}
            posix.write(_SOCKET, refusal.to_bytes(8, sys.byteorder) + marshal.dumps((states, missing, python)))
            _fill_holes()
            ctypes.memmove(self._base + _LOOP, self._loop, len(self._loop))
            step = self._runner.run(self._base + _LOOP)
            worker.end(self._engines, step, self._runner.result, ctypes.get_errno())  # it is a worker's
        finally:
            posix._exit(failures.SETUP_FAILED)

    def _apart(self) -> list[Engine]:
        return [engine for engine in self._engines.values() if engine.apart]

    def _build(self) -> tuple[bytes, int]:
        """Build the zygote's own list: its bytes, and the address at which it goes on after a fork."""
        base = self._base
        length, answer = base + _LENGTH, base + _ANSWER
        calls = CallList()
        again, forked, told, lost, gone = Label(), Label(), Label(), Label(), Label()
        message, got, where = calls.data(bytes(56)), calls.slot(), calls.slot()
        buffers = calls.table([length, 8])  # struct iovec; the message is a struct msghdr (recvmsg(2))
        whole = calls.table([0, 0, buffers, 1, base + _CONTROL, _CONTROL_BYTES, 0])
        calls.bind(again)
        calls.libc("memcpy", message, whole, 56)
        flags = _socket.MSG_WAITALL
        calls.libc("recvmsg", _SOCKET, message, flags | _socket.MSG_CMSG_CLOEXEC, out=got)
        calls.libc("memcmp", got, (8).to_bytes(8, "little"), 8, fails=NONZERO, orelse=gone)
        calls.libc("recv", _SOCKET, base + _LIST, At(length), flags, out=got)
        calls.libc("memcmp", got, length, 8, fails=NONZERO, orelse=gone)
        calls.libc("memcmp", message + _FLAGS, b"", 1, fails=NONZERO, orelse=lost)
        calls.go(Label(base + _LIST))
        calls.bind(lost)
        calls.libc("memcpy", answer, struct.pack("<qq", -1, errno.EMFILE), 16)
        calls.go(told)
        calls.bind(forked)
        calls.libc("__errno_location", out=where)
        calls.libc("memcpy", answer + 8, At(where), 4)
        calls.bind(told)
        calls.libc("send", _SOCKET, answer, 16, _socket.MSG_NOSIGNAL)
        calls.libc("memset", base + _LIST, 0, At(length))  # so that the next worker does not inherit it
        calls.libc("close_range", _SOCKET + 1, linux.LAST_FD, 0)
        calls.go(again)
        calls.bind(gone)
        calls.libc("_exit", 0)
        code = calls.finish(base + _LOOP)
        assert _LOOP + len(code) <= _CONTROL, len(code)
        return code, base + _LOOP + forked.offset


def zygotes(engines: dict[bytes, Engine], reporter: Reporter) -> dict[bytes, Zygote]:
    """The zygote of each engine: one for all that are primed here, and one for each that is ``apart``."""
    primed = {name: engine for name, engine in engines.items() if not engine.apart}
    together = Zygote(primed, reporter)
    return {name: together if name in primed else Zygote({name: engine}, reporter) for name, engine in engines.items()}


def _pair() -> tuple[_socket.socket, _socket.socket]:
    ours, theirs = _socket.socketpair()
    return _socket.socket(fileno=ours.detach()), _socket.socket(fileno=theirs.detach())


def _ask(sock: _socket.socket | None, code: bytes, fds: list[int]) -> tuple[int, int] | None:
    """Have a zygote fork for this list: the pid, or -1 and errno; None where there is none, or it had died before.

    Raises ``ZygoteDied``, and ``OSError`` where it cannot be sent to.
    """
    if sock is None:
        return None
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))]
    try:
        sock.sendmsg([len(code).to_bytes(8, "little")], rights, _socket.MSG_NOSIGNAL)
    except BrokenPipeError:
        return None
    try:
        sock.sendall(code)
        answer = sock.recv(16)
    except OSError:
        answer = b""
    if not answer:
        raise ZygoteDied
    pid: int
    number: int
    pid, number = struct.unpack("<qq", answer)
    return pid, number


def _fill_holes() -> None:
    """Take what is free between the blocks of the heap, so that all workers' blocks lie side by side behind them.

    The C library would else fill the holes first, and each that a worker fills is a page that it copies.
    """
    malloc = _libc.malloc
    malloc.restype = ctypes.c_void_p
    behind: int = max(malloc(120 << 10) for _ in range(4))  # below M_MMAP_THRESHOLD (mallopt(3))
    for size in (*(1 << n for n in range(16, 10, -1)), *range(1024, 0, -16)):
        while malloc(size) < behind:
            pass
    _libc.free(ctypes.c_void_p(behind))
