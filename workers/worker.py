"""One WASM instance, told in order: descriptors, places, privileges, and only then the guest's module.

``build`` makes it a list of calls, which the zygote's fork makes. The worker resolves no path: all it needs came
as descriptors, opened by the supervisor. Until it has dropped every privilege it reads no byte of the guest's.
"""

from __future__ import annotations

import posix
import struct
from ctypes import string_at

from . import failures, linux, start_request
from .calls.call_list import FALSE, NEGATIVE, NEGATIVE_LONG, NONZERO, At, CallList, Label
from .confinement import confinement, empty_root
from .engines import engine as engines
from .failures import CGROUP, LIMITS, NETNS, RESOLVER, SETUP_FAILED, STREAMS, TERMINAL, UNREADABLE, USER, WALLS
from .protocol import FAILED, LOADED, READY, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .calls.call_list import Data, Step
    from .engines.engine import Engine
    from .images.image import Image
    from .start_request import Descriptors, StartRequest

FIRST_FD = 4
"""Where the descriptors of a request begin in a fork of the zygote's, which has one more than the three streams."""

NOT_WASM, TOO_LARGE, NO_COPY, CHANGED = 8, 10, 11, 12
"""Labels of the steps that can fail, beside the engine's and those of ``failures``."""

_REFUSALS = {
    TOO_LARGE: "the module is larger than 1 GiB",
    CHANGED: "the module changed while it was read",
}
_WASM_MAGIC = b"\0asm"


class Places:
    """Where a worker's list may go on, and what memory is of no use to it then."""

    __slots__ = ("begin", "end", "rest", "room")

    def __init__(self, rest: int, room: int, begin: int, end: int) -> None:
        self.rest = rest
        """Address of the rest."""
        self.room = room
        """How many bytes it may take."""
        self.begin = begin
        self.end = end
        """The range to be given back, in whole pages."""


_SIGPIPE = 13


def build(
    calls: CallList,
    request: StartRequest,
    engine: Engine,
    walls: confinement.Confinement,
    mask: bytes,
    image: Image | None = None,
    places: Places | None = None,
) -> None:
    """Add the life of a worker, which ends with the guest's exit status. ``mask`` are the signals to let in.

    With an image, whose memory file follows the request's descriptors, the module is not loaded but mapped. With
    ``places`` the memory of the list is given back before the guest runs.
    """
    descriptors = request.descriptors
    report, module = descriptors.one(start_request.REPORT), descriptors.one(start_request.MODULE)
    netns, preopens = descriptors.one(start_request.NETNS), descriptors.all(start_request.FOLDER)
    resolver = descriptors.one(start_request.RESOLVER) if not engine.proc else -1  # else it takes /proc for granted
    pid = _begin(calls, b"wasm-worker", descriptors, mask)
    if request.terminal:
        calls.libc("ioctl", 0, linux.TIOCSCTTY, 0, fails=NEGATIVE, stage=TERMINAL)
    for fd in descriptors.all(start_request.CGROUP):
        calls.libc("write", fd, b"0", 1, fails=NEGATIVE, stage=CGROUP)  # the writing process (cgroups(7))
    if netns >= 0:
        calls.libc("setns", netns, linux.CLONE_NEWNET, fails=NEGATIVE, stage=NETNS)
    _limit(calls, request)
    if resolver >= 0:
        empty_root.change_root(calls, resolver, RESOLVER)
    confinement.drop_privileges(calls, request.uid, request.gid, request.groups, USER)
    _close_all_but(calls, descriptors, {report, module, resolver, *preopens})
    walls.enter(calls, request, engine.threads, module, preopens, pid, WALLS, resolver)

    path = b"%sself/fd/%d" % (engine.proc, module)  # proc is the current directory
    _check_access(calls, path)
    unmapped = Label()
    if image is not None:
        memory = FIRST_FD + len(descriptors.fds)
        image.map(calls, memory, module, unmapped)
        calls.libc("close", memory)
        guest = engine.restore(calls, image.values, request, preopens)
    elif request.module_kind != start_request.WASM:
        guest = engine.load(calls, engines.Module(product=path), request, preopens)
    else:
        begin, length = _copy(calls, module)
        guest = engine.load(calls, engines.Module(begin, length), request, preopens)
        calls.libc("munmap", At(begin), At(length))
    empty_root.leave_proc(calls, WALLS)
    walls.forbid_new_code(calls, request, engine.threads, pid, WALLS)
    for fd in (module, *preopens, *((resolver,) if resolver >= 0 else ())):  # the engine has opened its own
        calls.libc("close", fd)
    _say_loaded(calls, report)
    if image is None:
        engine.instantiate(calls, guest, request)
    calls.libc("write", report, READY, 1)
    calls.libc("close", report)
    calls.libc("signal", _SIGPIPE, None)  # SIG_DFL
    if image is None or places is None or not _move(calls, request, engine, image, places):
        engine.run(calls, guest, request.function == b"_start")
    failures.add_verdicts(calls, report)
    if image is not None:
        calls.bind(unmapped)
        verdict = FAILED + b"the image of the module cannot be mapped: out of memory"
        calls.libc("write", report, verdict, len(verdict))
        calls.libc("_exit", SETUP_FAILED)


def _move(calls: CallList, request: StartRequest, engine: Engine, image: Image, places: Places) -> bool:
    """Have the rest of the worker's life lie elsewhere, and all before it given back; whether there is room for it."""
    rest = CallList()
    rest.libc("madvise", places.begin, places.end - places.begin, linux.MADV_DONTNEED)
    engine.run(rest, engine.restored(rest, image.values, request), request.function == b"_start")
    code = rest.finish(places.rest)
    if len(code) > places.room:
        return False
    calls.libc("memcpy", places.rest, calls.data(code), len(code))
    calls.go(Label(places.rest))
    return True


def build_template(
    calls: CallList, request: StartRequest, engine: Engine, walls: confinement.Confinement, mask: bytes, seconds: int
) -> int:
    """Add the life of a template: it loads and instantiates the module, reports so, and waits to be looked at.

    It is shut in like a worker of that module without network, as nobody; folders are for an export that is called
    first. After READY its report has the engine's values, 8 bytes each; answers how many. It ends by itself after so
    many seconds.
    """
    descriptors = request.descriptors
    report, module = descriptors.one(start_request.REPORT), descriptors.one(start_request.MODULE)
    preopens = descriptors.all(start_request.FOLDER)
    pid = _begin(calls, b"wasm-template", descriptors, mask)
    calls.libc("alarm", seconds)
    _limit(calls, request)
    confinement.drop_privileges(calls, request.uid, request.gid, [], USER)
    _close_all_but(calls, descriptors, {report, module, *preopens})
    walls.enter(calls, request, engine.threads, module, preopens, pid, WALLS)
    path = b"%sself/fd/%d" % (engine.proc, module)
    guest = engine.load(calls, engines.Module(product=path), request, None)
    if request.initialize:
        engine.instantiate(calls, guest, request)
        engine.lend_context(calls, request, preopens)
    empty_root.leave_proc(calls, WALLS)
    walls.forbid_new_code(calls, request, engine.threads, pid, WALLS)
    for fd in (module, *preopens):
        calls.libc("close", fd)
    if request.initialize:
        engine.initialize(calls, guest, request)
    else:
        engine.instantiate(calls, guest, request)
    values = engine.values(guest)
    calls.libc("write", report, READY, 1)
    for value in values:
        calls.libc("write", report, value, 8)
    calls.libc("close", report)
    calls.libc("poll", None, 0, -1)
    calls.libc("_exit", SETUP_FAILED)
    failures.add_verdicts(calls, report)
    return len(values)


def _begin(calls: CallList, name: bytes, descriptors: Descriptors, mask: bytes) -> Data:
    """Report the pid, take the streams and a session of its own; the place where the pid lies."""
    pid = calls.slot()
    calls.libc("prctl", linux.PR_SET_NAME, name, 0, 0, 0)
    # Before a byte of the guest's is looked at: later this process might report a pid that is not its own.
    calls.libc("getpid", out=pid)
    calls.libc("write", descriptors.one(start_request.REPORT), pid, 4)
    calls.libc("sigprocmask", linux.SIG_UNBLOCK, mask, None)
    _take_streams(calls, descriptors)
    calls.libc("setsid")
    return pid


def end(loaded: dict[bytes, Engine], step: Step, result: int, number: int) -> None:
    """Say why a worker's list has ended at this step, with this result and errno, and end the process.

    Code of the guest's ends by its exit status, and all before it by a failed start.
    """
    status, verdict, text = SETUP_FAILED, FAILED, ""
    engine = next((engine for engine in loaded.values() if step.stage in engine.stages), None)
    if engine is not None:
        end = engine.explain(step, result)
        verdict, text = REFUSED, end.text
        if end.kind != engines.REFUSED:
            status, verdict, text = end.status, READY, ""
            _write(2, b"wasm trap: %s\n" % end.text.encode() if end.kind == engines.TRAPPED else b"")
    elif step.stage == NOT_WASM:
        begin = string_at(step.arguments[0], len(_WASM_MAGIC))
        verdict, text = REFUSED, f"not a WebAssembly module: {_no_magic(begin)}"
    elif step.stage in _REFUSALS:
        verdict, text = REFUSED, _REFUSALS[step.stage]
    else:
        why = posix.strerror(number)
        verdict, text = REFUSED, f"the container's user may not copy into its memory the module: {why}"
    if engine is None or step.stage != engine.running:  # then the pipe is closed, and its number may be another's
        _write(FIRST_FD, verdict + text.encode(errors="replace")[:4000])
    posix._exit(status)


def _write(fd: int, text: bytes) -> None:
    try:
        posix.write(fd, text)
    except OSError:  # it has no reader any more
        pass


def _no_magic(begin: bytes) -> str:
    """Name the kind of a file that begins with this."""
    if begin.lstrip().startswith((b"(", b";;")):
        return "it is in the text form (.wat): convert it with wat2wasm"
    return "it does not begin with \\0asm"


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


def _check_access(calls: CallList, path: bytes) -> None:
    """See that the container's user may read the module. The descriptor was opened by the supervisor, for root."""
    # A loader may die of SIGSEGV where it may not open a file that it can stat.
    fd = calls.slot()
    calls.libc("open", path, posix.O_RDONLY | posix.O_CLOEXEC, out=fd, fails=NEGATIVE, stage=UNREADABLE)
    calls.libc("close", At(fd))


def _copy(calls: CallList, module: int) -> tuple[Data, Data]:
    """Copy the module into memory of the worker's own: the places of its address and length.

    Nobody changes these bytes between the check of what they are and their use.
    """
    size, begin, got = calls.slot(), calls.slot(), calls.slot()
    calls.libc("lseek", module, 0, linux.SEEK_END, out=size, fails=NEGATIVE_LONG, stage=NO_COPY)
    calls.libc("memcmp", size, bytes(8), 8, fails=FALSE, stage=NOT_WASM)
    # Below 1 GiB, by the bytes of a little-endian number.
    calls.libc("memcmp", size + 4, bytes(4), 4, fails=NONZERO, stage=TOO_LARGE)
    calls.libc("memcmp", b"\x3f", size + 3, 1, fails=NEGATIVE, stage=TOO_LARGE)
    protection, flags = linux.PROT_READ | linux.PROT_WRITE, linux.MAP_PRIVATE | linux.MAP_ANONYMOUS
    calls.libc("mmap", None, At(size), protection, flags, -1, 0, out=begin, fails=NEGATIVE_LONG, stage=NO_COPY)
    calls.libc("pread", module, At(begin), At(size), 0, out=got, fails=NEGATIVE_LONG, stage=NO_COPY)
    calls.libc("memcmp", got, size, 8, fails=NONZERO, stage=CHANGED)
    calls.libc("memcmp", At(begin), _WASM_MAGIC, len(_WASM_MAGIC), fails=NONZERO, stage=NOT_WASM)
    return begin, size


def _say_loaded(calls: CallList, report: int) -> None:
    """Report that the module's own code is about to run. Without a reader any more, the start is undone.

    So no guest runs unseen. After this, whatever a guest with machine code of its own writes into the pipe, it says of
    a process that counts as running.
    """
    unseen, seen = Label(), Label()
    calls.libc("write", report, LOADED, 1, fails=NEGATIVE, orelse=unseen)
    calls.go(seen)
    calls.bind(unseen)
    calls.libc("_exit", SETUP_FAILED)
    calls.bind(seen)
