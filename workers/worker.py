"""One WASM instance, told in order: descriptors, places, privileges, and only then the guest's module.

``draw`` draws this up as a plan, which the zygote's fork carries out. The worker resolves no path: all it needs came
as descriptors, opened by the supervisor. Until it has dropped every privilege it reads no byte of the guest's.
"""

from __future__ import annotations

import posix
import struct

from . import linux
from .calls.call_list import NEGATIVE, NONZERO, At, Mark
from .confinement import confinement
from .engines.wasmedge.engine import TRAP, TRAPPED
from .protocol import FAILED, READY, REFUSED, WASM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .calls.call_list import Plan, Step
    from .engines.wasmedge.engine import Engine
    from .protocol import StartRequest

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


def draw(plan: Plan, request: StartRequest, engine: Engine, cell: confinement.Cell, mask: bytes) -> None:
    """Add the life of a worker, which ends with the guest's exit status. ``mask`` are the signals to let in."""
    report, module = FIRST_FD, FIRST_FD + 1
    places = FIRST_FD + 5
    first = places + request.cgroups + int(request.netns)
    preopens = [first + i for i in range(len(request.preopens))]
    pid = plan.slot()
    plan.libc("prctl", linux.PR_SET_NAME, b"wasm-worker", 0, 0, 0)
    # Before a byte of the guest's is looked at: later this process might say anybody's pid.
    plan.libc("getpid", out=pid)
    plan.libc("write", report, pid, 4)
    plan.libc("sigprocmask", linux.SIG_UNBLOCK, mask, None)
    _take_streams(plan)
    plan.libc("setsid")
    if request.terminal:
        plan.libc("ioctl", 0, linux.TIOCSCTTY, 0, fails=NEGATIVE, label=TERMINAL)
    for fd in range(places, places + request.cgroups):
        plan.libc("write", fd, b"0", 1, fails=NEGATIVE, label=CGROUP)  # the writing process (cgroups(7))
    if request.netns:
        plan.libc("setns", first - 1, linux.CLONE_NEWNET, fails=NEGATIVE, label=NETNS)
    _limit(plan, request)
    confinement.become(plan, request.uid, request.gid, request.groups, USER)
    if first > places:
        plan.libc("close_range", places, first - 1, 0)
    cell.shut(plan, request, module, preopens, pid, WALLS)

    path = b"/proc/self/fd/%d" % module
    _look_at(plan, module, path, request.module_kind)
    guest = engine.load(plan, path, request, preopens)
    for fd in (module, *preopens):  # WasmEdge opened its own
        plan.libc("close", fd)
    _tell_ready(plan, report)
    engine.run(plan, guest, request.function == b"_start")


def end(engine: Engine, step: Step, result: int, number: int) -> None:
    """Say why a worker's plan has ended at this step, with this result and errno, and end the process."""
    try:
        if step.label == TRAP:
            posix.write(2, b"wasm trap: %s\n" % engine.explain(step, result).encode())
        else:
            verdict, text = _explain(engine, step, result, number)
            posix.write(FIRST_FD, verdict + text.encode(errors="replace")[:4000])
    except OSError:  # nobody listens
        pass
    posix._exit(TRAPPED if step.label == TRAP else SETUP_FAILED)


def _explain(engine: Engine, step: Step, result: int, number: int) -> tuple[bytes, str]:
    reason = posix.strerror(number)
    if step.label in _WHAT:
        return FAILED, f"{_WHAT[step.label]}: {reason}"
    if step.label == UNREADABLE:
        return REFUSED, f"the container's user may not read the module: {reason}"
    if step.label == NOT_WASM:
        return REFUSED, "not a WebAssembly module: it does not begin with \\0asm"
    return REFUSED, engine.explain(step, result)


def _take_streams(plan: Plan) -> None:
    """Take the streams, leave the zygote's socket behind."""
    streams = FIRST_FD + 2
    for number in range(3):
        plan.libc("dup2", streams + number, number, fails=NEGATIVE, label=STREAMS)
    plan.libc("close_range", streams, streams + 2, 0)
    plan.libc("close", FIRST_FD - 1)


def _limit(plan: Plan, request: StartRequest) -> None:
    """Resource limits, and the score for the kernel's out-of-memory choice."""
    for kind, soft, hard in request.rlimits:
        plan.libc("setrlimit", kind, struct.pack("<qq", soft, hard), fails=NEGATIVE, label=LIMITS)
    if request.oom_score_adj is not None:
        fd, score = plan.slot(), b"%d" % request.oom_score_adj
        flags = posix.O_WRONLY | posix.O_CLOEXEC
        plan.libc("open", b"/proc/self/oom_score_adj", flags, out=fd, fails=NEGATIVE, label=LIMITS)
        plan.libc("write", At(fd), score, len(score), fails=NEGATIVE, label=LIMITS)
        plan.libc("close", At(fd))


def _look_at(plan: Plan, module: int, path: bytes, kind: int) -> None:
    if kind == WASM:  # WasmEdge's loader would run an ELF file as it comes, whoever made it
        magic = plan.slot()
        plan.libc("pread", module, magic, len(_WASM_MAGIC), 0)
        plan.libc("memcmp", magic, _WASM_MAGIC, len(_WASM_MAGIC), fails=NONZERO, label=NOT_WASM)
    # WasmEdge 0.14 dies of SIGSEGV where it may not open what it has seen with stat.
    fd = plan.slot()
    plan.libc("open", path, posix.O_RDONLY | posix.O_CLOEXEC, out=fd, fails=NEGATIVE, label=UNREADABLE)
    plan.libc("close", At(fd))


def _tell_ready(plan: Plan, report: int) -> None:
    """Answer the pending Task Start. Where nobody waits for it any more, the start is undone: no guest runs unseen."""
    unseen, seen = Mark(), Mark()
    plan.libc("write", report, READY, 1, fails=NEGATIVE, orelse=unseen)
    plan.libc("close", report)
    plan.libc("signal", _SIGPIPE, None)  # SIG_DFL
    plan.go(seen)
    plan.place(unseen)
    plan.libc("_exit", SETUP_FAILED)
    plan.place(seen)
