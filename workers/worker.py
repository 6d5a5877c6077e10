"""One WASM instance, told in order: descriptors, places, privileges, and only then the guest's module.

The worker resolves no path: all it needs came as descriptors, opened by the supervisor. Until it has
dropped every privilege it reads no byte of the guest's.
"""

from __future__ import annotations

import _signal  # the signal module imports enum
import posix

from . import confinement, linux
from .protocol import FAILED, READY, REFUSED, WASM
from .wasmedge import ModuleRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import StartRequest
    from .seccomp import Filter
    from .wasmedge import Arguments, Engine

SETUP_FAILED = 125  # exit status of a worker that never ran its guest; nobody takes it for a guest's
_WASM_MAGIC = b"\0asm"


class _SetupFailed(Exception):
    pass


def main(
    engine: Engine,
    request: StartRequest,
    fds: list[int],
    arguments: Arguments,
    cell: confinement.Cell,
    profile: Filter,
) -> None:
    """The life of a forked worker. Never returns: the process ends with the guest's exit status."""
    report = fds[0]
    try:
        # Before a byte of the guest's is looked at: later this process might say anybody's pid.
        posix.write(report, b"%d " % posix.getpid())
        try:
            module, preopens = _prepare(request, fds)
            _shut(cell, request, module, preopens, profile)
            _load(engine, request, module, preopens, arguments)
        except ModuleRefused as error:
            _say(report, REFUSED, str(error))
        except (OSError, ValueError, _SetupFailed) as error:
            _say(report, FAILED, str(error))
        else:
            # Where nobody waits for it any more, the start is undone: the guest must not run unseen.
            if not _say(report, READY):
                posix._exit(SETUP_FAILED)
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
            status, trap = engine.run(request.function == b"_start")
            if trap:
                _tell_guest(trap)
            posix._exit(status)
    except BaseException as error:  # whatever it is, it must not run on as a second forkserver
        _say(report, FAILED, repr(error))
    posix._exit(SETUP_FAILED)


def _prepare(request: StartRequest, fds: list[int]) -> tuple[int, list[int]]:
    """Take the streams, leave everything of the forkserver behind, drop all privileges."""
    module, streams = fds[1], fds[2:5]
    for number, fd in enumerate(streams):
        posix.dup2(fd, number)
    kept = fds[:2] + fds[5:]
    _close_all_but(kept)
    cgroups = fds[5 : 5 + request.cgroups]
    preopens = fds[len(fds) - len(request.preopens) :]
    posix.setsid()
    linux.prctl(linux.PR_SET_NAME, b"wasm-worker")
    step = "terminal"
    try:
        if request.terminal:
            linux.make_controlling_terminal(0)
        step = "cgroup"
        confinement.enter_cgroups(cgroups)
        step = "network namespace"
        if request.netns:
            linux.setns(fds[5 + request.cgroups], linux.CLONE_NEWNET)
        step = "resource limits"
        confinement.apply_limits(request)
        step = "user and capabilities"
        confinement.become(request.uid, request.gid, request.groups)
    except (OSError, ValueError) as error:
        raise _SetupFailed(f"{step}: {error}") from None
    for fd in fds[5 : len(fds) - len(preopens)]:
        posix.close(fd)
    return module, preopens


def _shut(cell: confinement.Cell, request: StartRequest, module: int, preopens: list[int], profile: Filter) -> None:
    try:
        cell.shut(request, module, preopens, profile)
    except OSError as error:
        raise _SetupFailed(f"Landlock and seccomp: {error}") from None


def _load(engine: Engine, request: StartRequest, module: int, preopens: list[int], arguments: Arguments) -> None:
    # WasmEdge's loader would run an ELF file as it comes, whoever made it.
    if request.module_kind == WASM and posix.pread(module, 4, 0) != _WASM_MAGIC:
        raise ModuleRefused("not a WebAssembly module: it does not begin with \\0asm")
    pairs = list(zip(request.preopens, preopens, strict=True))
    path = b"/proc/self/fd/%d" % module
    try:
        posix.close(posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC))
    except OSError as error:  # WasmEdge 0.14 dies of SIGSEGV where it may not open what it has seen with stat
        raise ModuleRefused(f"the container's user may not read the module: {error.strerror}") from None
    engine.load(path, request.module_kind, arguments, pairs)
    engine.find(request.function)
    posix.close(module)
    for fd in preopens:  # WasmEdge opened its own
        posix.close(fd)


def _close_all_but(kept: list[int]) -> None:
    first = 3
    for fd in sorted(kept):
        if fd > first:
            linux.close_range(first, fd - 1)
        first = fd + 1
    linux.close_range(first, linux.LAST_FD)


def _say(report: int, verdict: bytes, text: str = "") -> bool:
    """Answer the pending Task Start, and close its pipe; false where nobody waits for it any more."""
    try:
        posix.write(report, verdict + text.encode(errors="replace")[:4000])
        posix.close(report)
    except OSError:
        return False
    return True


def _tell_guest(trap: bytes) -> None:
    try:
        posix.write(2, b"wasm trap: " + trap + b"\n")
    except OSError:
        pass
