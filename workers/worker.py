"""One WASM instance, told in order: descriptors, places, privileges, and only then the guest's module.

``build`` draws this up as a plan, which the zygote's fork carries out. The worker resolves no path: all it needs came
as descriptors, opened by the supervisor. Until it has dropped every privilege it reads no byte of the guest's.
"""

from __future__ import annotations

import posix
import struct

from . import linux, start_request
from .calls.call_list import NEGATIVE, NONZERO, At, Label
from .confinement import confinement, empty_root
from .engines.wasmedge.engine import TRAP, TRAPPED
from .protocol import FAILED, READY, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .calls.call_list import CallList, Step
    from .engines.wasmedge.engine import Engine
    from .start_request import Descriptors, StartRequest

SETUP_FAILED = 125  # exit status of a worker that never ran its guest; nobody takes it for a guest's
FIRST_FD = 4
"""Where the descriptors of a request begin in a fork of the zygote's, which has one more than the three streams."""

STREAMS, TERMINAL, CGROUP, NETNS, LIMITS, USER, WALLS, NOT_WASM, UNREADABLE = range(1, 10)
"""Labels of the steps that can fail, beside the engine's."""

_WHAT = {
    STREAMS: "streams",
    TERMINAL: "terminal",
    CGROUP: "cgroup",
    NETNS: "network namespace",
    LIMITS: "resource limits",
    USER: "user and capabilities",
    WALLS: "Landlock and seccomp",
}
_WASM_MAGIC = b"\0asm"
_SIGPIPE = 13


def build(calls: CallList, request: StartRequest, engine: Engine, cell: confinement.Confinement, mask: bytes) -> None:
    """Add the life of a worker, which ends with the guest's exit status. ``mask`` are the signals to let in."""
    descriptors = request.descriptors
    report, module = descriptors.one(start_request.REPORT), descriptors.one(start_request.MODULE)
    netns, preopens = descriptors.one(start_request.NETNS), descriptors.all(start_request.FOLDER)
    pid = calls.slot()
    calls.libc("prctl", linux.PR_SET_NAME, b"wasm-worker", 0, 0, 0)
    # Before a byte of the guest's is looked at: later this process might say anybody's pid.
    calls.libc("getpid", out=pid)
    calls.libc("write", report, pid, 4)
    calls.libc("sigprocmask", linux.SIG_UNBLOCK, mask, None)
    _take_streams(calls, descriptors)
    calls.libc("setsid")
    if request.terminal:
        calls.libc("ioctl", 0, linux.TIOCSCTTY, 0, fails=NEGATIVE, stage=TERMINAL)
    for fd in descriptors.all(start_request.CGROUP):
        calls.libc("write", fd, b"0", 1, fails=NEGATIVE, stage=CGROUP)  # the writing process (cgroups(7))
    if netns >= 0:
        calls.libc("setns", netns, linux.CLONE_NEWNET, fails=NEGATIVE, stage=NETNS)
    _limit(calls, request)
    confinement.drop_privileges(calls, request.uid, request.gid, request.groups, USER)
    _close_all_but(calls, descriptors, {report, module, *preopens})
    cell.enter(calls, request, module, preopens, pid, WALLS)

    path = b"%sself/fd/%d" % (engine.proc, module)  # proc is the current directory
    _look_at(calls, module, path, request.module_kind)
    guest = engine.load(calls, path, request, preopens)
    empty_root.leave_proc(calls, WALLS)
    cell.forbid_new_code(calls, request, pid, WALLS)
    for fd in (module, *preopens):  # WasmEdge opened its own
        calls.libc("close", fd)
    _tell_ready(calls, report)
    engine.run(calls, guest, request.function == b"_start")


def end(engine: Engine, step: Step, result: int, number: int) -> None:
    """Say why a worker's plan has ended at this step, with this result and errno, and end the process."""
    try:
        if step.stage == TRAP:
            posix.write(2, b"wasm trap: %s\n" % engine.explain(step, result).encode())
        else:
            verdict, text = _explain(engine, step, result, number)
            posix.write(FIRST_FD, verdict + text.encode(errors="replace")[:4000])
    except OSError:  # nobody listens
        pass
    posix._exit(TRAPPED if step.stage == TRAP else SETUP_FAILED)


def _explain(engine: Engine, step: Step, result: int, number: int) -> tuple[bytes, str]:
    reason = posix.strerror(number)
    if step.stage in _WHAT:
        return FAILED, f"{_WHAT[step.stage]}: {reason}"
    if step.stage == UNREADABLE:
        return REFUSED, f"the container's user may not read the module: {reason}"
    if step.stage == NOT_WASM:
        return REFUSED, "not a WebAssembly module: it does not begin with \\0asm"
    return REFUSED, engine.explain(step, result)


def _take_streams(calls: CallList, descriptors: Descriptors) -> None:
    """Take the streams, leave the zygote's socket behind."""
    for number, role in enumerate((start_request.STDIN, start_request.STDOUT, start_request.STDERR)):
        calls.libc("dup2", descriptors.one(role), number, fails=NEGATIVE, stage=STREAMS)
    calls.libc("close", FIRST_FD - 1)


def _close_all_but(calls: CallList, descriptors: Descriptors, kept: set[int]) -> None:
    """Close the request's other descriptors, those of unknown roles included."""
    first = -1
    for fd in range(FIRST_FD, FIRST_FD + len(descriptors.fds) + 1):
        if fd not in kept and fd < FIRST_FD + len(descriptors.fds):
            first = fd if first < 0 else first
        elif first >= 0:
            calls.libc("close_range", first, fd - 1, 0)
            first = -1


def _limit(calls: CallList, request: StartRequest) -> None:
    """Resource limits, and the score for the kernel's out-of-memory choice."""
    for kind, soft, hard in request.rlimits:
        calls.libc("setrlimit", kind, struct.pack("<qq", soft, hard), fails=NEGATIVE, stage=LIMITS)
    if request.oom_score_adj is not None:
        fd, score = calls.slot(), b"%d" % request.oom_score_adj
        flags = posix.O_WRONLY | posix.O_CLOEXEC
        calls.libc("open", b"self/oom_score_adj", flags, out=fd, fails=NEGATIVE, stage=LIMITS)
        calls.libc("write", At(fd), score, len(score), fails=NEGATIVE, stage=LIMITS)
        calls.libc("close", At(fd))


def _look_at(calls: CallList, module: int, path: bytes, kind: int) -> None:
    if kind == start_request.WASM:  # WasmEdge's loader would run an ELF file as it comes, whoever made it
        magic = calls.slot()
        calls.libc("pread", module, magic, len(_WASM_MAGIC), 0)
        calls.libc("memcmp", magic, _WASM_MAGIC, len(_WASM_MAGIC), fails=NONZERO, stage=NOT_WASM)
    # WasmEdge 0.14 dies of SIGSEGV where it may not open what it has seen with stat.
    fd = calls.slot()
    calls.libc("open", path, posix.O_RDONLY | posix.O_CLOEXEC, out=fd, fails=NEGATIVE, stage=UNREADABLE)
    calls.libc("close", At(fd))


def _tell_ready(calls: CallList, report: int) -> None:
    """Answer the pending Task Start. Where nobody waits for it any more, the start is undone: no guest runs unseen."""
    unseen, seen = Label(), Label()
    calls.libc("write", report, READY, 1, fails=NEGATIVE, orelse=unseen)
    calls.libc("close", report)
    calls.libc("signal", _SIGPIPE, None)  # SIG_DFL
    calls.go(seen)
    calls.bind(unseen)
    calls.libc("_exit", SETUP_FAILED)
    calls.bind(seen)
