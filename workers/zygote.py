"""The zygote: forks workers, and does nothing else, so that its memory stays as it is.

What a process writes between two forks, each of its forks keeps a copy of. So the forkserver, which is Python and
writes with every instruction, forks no worker itself. It sends a plan to the zygote, which it has forked for that
purpose. The zygote, by a plan of its own and without Python, receives that, forks, and answers with the pid.
CLONE_PARENT makes the worker the forkserver's child (clone(2)).
"""

from __future__ import annotations

import _socket
import array
import ctypes
import errno
import posix
import struct

from . import linux, worker
from .plan import ANY, NONZERO, At, Mark, Plan, Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wasmedge import Engine

_CLONE_PARENT, _SIGCHLD = 0x8000, 17  # clone(2)
_CLONE = {"x86_64": 56, "aarch64": 220}.get(posix.uname().machine, -1)  # system call number
_SOCKET = worker.FIRST_FD - 1

# The zygote's memory for plans: its own head, then, in as few pages as can be, the worker's plan.
_RESULT, _ANSWER, _LENGTH, _LOOP, _CONTROL, _PLAN, _BYTES = 0, 8, 24, 32, 1264, 2304, 4 << 20
_CONTROL_BYTES = 16 + 4 * 256  # struct cmsghdr, and more descriptors than can come (SCM_MAX_FD, unix(7))

_FLAGS = 48
"""Where in a struct msghdr (recvmsg(2)) the byte is that says, with MSG_CTRUNC, that descriptors found no room."""

_libc = ctypes.PyDLL(None, use_errno=True)


class ZygoteDied(Exception):
    """The zygote ended during a fork, and nobody knows whether there is a worker."""


class Zygote:
    """The forkserver's side of it. The process is forked when first it is needed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._base = linux.map_memory(_BYTES)
        self._runner = Runner(self._base + _RESULT)
        self._socket: _socket.socket | None = None
        self._loop, self._forked = self._draw()

    def plan(self) -> Plan:
        """A plan that begins with the fork; what is added to it is the worker's."""
        plan = Plan()
        flags = _CLONE_PARENT | _SIGCHLD
        plan.libc("syscall", _CLONE, flags, 0, 0, 0, 0, out=self._base + _ANSWER, fails=ANY, orelse=Mark(self._forked))
        return plan

    def finish(self, plan: Plan) -> bytes:
        """The plan as ``fork`` takes it. Raises ``OSError`` where it is too long."""
        code = plan.finish(self._base + _PLAN)
        if _PLAN + len(code) > _BYTES:
            raise OSError(errno.E2BIG, posix.strerror(errno.E2BIG))
        return code

    def fork(self, code: bytes, fds: list[int]) -> int:
        """Fork a worker that carries out a plan: its pid.

        The descriptors become the worker's, from ``worker.FIRST_FD`` on. Raises ``OSError`` where there can be no
        process, or no room for them in it, and ``ZygoteDied``.
        """
        for _ in range(2):
            pid, number = self._ask(code, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))])
            if pid >= 0:
                return pid
            if number != errno.EMFILE:
                break
            self.close()  # it has the open-file limit that we had when it was forked: the next has today's
        raise OSError(number, posix.strerror(number))

    def _ask(self, code: bytes, rights: list[tuple[int, int, array.array[int]]]) -> tuple[int, int]:
        """Have the zygote, or a new one, fork for this plan: the pid, or -1 and errno."""
        length = len(code).to_bytes(8, "little")
        sock = self._socket or self._begin()
        try:
            sock.sendmsg([length], rights, _socket.MSG_NOSIGNAL)
        except BrokenPipeError:  # it had died before: nothing was begun
            self.close()
            sock = self._begin()
            sock.sendmsg([length], rights, _socket.MSG_NOSIGNAL)
        try:
            sock.sendall(code)
            answer = sock.recv(16)
        except OSError:
            answer = b""
        if not answer:
            self.close()
            raise ZygoteDied
        pid: int
        pid, number = struct.unpack("<qq", answer)
        return pid, number

    def close(self) -> None:
        """Let go of the zygote, which then ends."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _begin(self) -> _socket.socket:
        pair = _socket.socketpair()
        ours, theirs = (_socket.socket(fileno=each.detach()) for each in pair)
        try:
            pid = linux.fork()
            if pid == 0:
                self._serve(theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        return ours

    def _serve(self, sock: int) -> None:
        """Be the zygote. Never returns."""
        try:
            posix.dup2(sock, _SOCKET)
            linux.close_range(_SOCKET + 1, linux.LAST_FD)
            linux.prctl(linux.PR_SET_NAME, b"wasm-zygote")
            _fill_holes()
            ctypes.memmove(self._base + _LOOP, self._loop, len(self._loop))
            step = self._runner.run(self._base + _LOOP)
            worker.end(self._engine, step, self._runner.result, ctypes.get_errno())  # of a worker's, so we are that
        finally:
            posix._exit(worker.SETUP_FAILED)

    def _draw(self) -> tuple[bytes, int]:
        """The zygote's own plan, and where it goes on after a fork."""
        base = self._base
        length, answer = base + _LENGTH, base + _ANSWER
        plan = Plan()
        again, forked, told, lost, gone = Mark(), Mark(), Mark(), Mark(), Mark()
        message, got, where = plan.data(bytes(56)), plan.slot(), plan.slot()
        buffers = plan.table([length, 8])  # struct iovec; the message is a struct msghdr (recvmsg(2))
        whole = plan.table([0, 0, buffers, 1, base + _CONTROL, _CONTROL_BYTES, 0])
        plan.place(again)
        plan.libc("memcpy", message, whole, 56)
        flags = _socket.MSG_WAITALL
        plan.libc("recvmsg", _SOCKET, message, flags | _socket.MSG_CMSG_CLOEXEC, out=got)
        plan.libc("memcmp", got, (8).to_bytes(8, "little"), 8, fails=NONZERO, orelse=gone)
        plan.libc("recv", _SOCKET, base + _PLAN, At(length), flags, out=got)
        plan.libc("memcmp", got, length, 8, fails=NONZERO, orelse=gone)
        plan.libc("memcmp", message + _FLAGS, b"", 1, fails=NONZERO, orelse=lost)
        plan.go(Mark(base + _PLAN))
        plan.place(lost)
        plan.libc("memcpy", answer, struct.pack("<qq", -1, errno.EMFILE), 16)
        plan.go(told)
        plan.place(forked)
        plan.libc("__errno_location", out=where)
        plan.libc("memcpy", answer + 8, At(where), 4)
        plan.place(told)
        plan.libc("send", _SOCKET, answer, 16, _socket.MSG_NOSIGNAL)
        plan.libc("close_range", _SOCKET + 1, linux.LAST_FD, 0)
        plan.go(again)
        plan.place(gone)
        plan.libc("_exit", 0)
        code = plan.finish(base + _LOOP)
        assert _LOOP + len(code) <= _CONTROL, len(code)
        return code, base + _LOOP + forked.offset


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
