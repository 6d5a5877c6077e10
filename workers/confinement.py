"""What a worker gives up before it looks at the guest's module. Every step here is one way."""

from __future__ import annotations

import posix
import resource

from . import linux
from .landlock import Landlock
from .seccomp import Filter, Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import StartRequest


def drop_bounding_set() -> None:
    """Empty the capability bounding set (capabilities(7)).

    It matters at exec only, and neither forkserver nor worker execs: so the forkserver does it once,
    and its forks inherit it for nothing. Raises ``OSError``.
    """
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        last = int(file.read())
    for capability in range(last + 1):
        linux.prctl(linux.PR_CAPBSET_DROP, capability)


def enter_cgroups(descriptors: list[int]) -> None:
    """Join each control group whose ``cgroup.procs`` is given. Raises ``OSError``."""
    for fd in descriptors:
        posix.write(fd, b"0")  # the writing process (cgroups(7))


def apply_limits(request: StartRequest) -> None:
    """Resource limits and the score for the kernel's out-of-memory choice.

    Raises ``OSError`` or ``ValueError`` where a limit is above what this process may set.
    """
    for kind, soft, hard in request.rlimits:
        resource.setrlimit(kind, (soft, hard))
    if request.oom_score_adj is not None:
        fd = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY | posix.O_CLOEXEC)
        posix.write(fd, b"%d" % request.oom_score_adj)
        posix.close(fd)


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Become the container's user, with no capability in any set and no way to gain one.

    no_new_privs bars exec from giving any back; who is not dumpable cannot be traced by the same user's
    other processes, and leaves no core. Raises ``OSError``.
    """
    posix.setgroups(groups)
    posix.setresgid(gid, gid, gid)
    posix.setresuid(uid, uid, uid)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


class Cell:
    """What a worker is shut into, made once in the forkserver: its forks share it."""

    __slots__ = ("_alone", "_landlock", "_networked", "_reporter")

    def __init__(self, alone: bytes = b"", networked: bytes = b"", names: bytes = b"") -> None:
        """The seccomp filters for workers without and with a network, and the names of system calls."""
        self._landlock = Landlock()
        self._alone = Filter(alone)
        self._networked = Filter(networked)
        self._reporter = Reporter(names)

    @property
    def landlock_abi(self) -> int:
        """Landlock's ABI on this kernel; 0 where there is none."""
        return self._landlock.abi

    def shut(self, request: StartRequest, module: int, preopens: list[int], profile: Filter) -> None:
        """Leave this process the module, its preopens and the system calls of a guest, for good.

        The spec's own ``profile`` goes first: the worker's filter would not let another be installed.
        Raises ``OSError``.
        """
        pid = posix.getpid()  # a profile may forbid even that
        folders = [(fd, preopen.readonly) for preopen, fd in zip(request.preopens, preopens, strict=True)]
        self._landlock.restrict(folders, [module], request.network)
        profile.install(pid)
        (self._networked if request.network else self._alone).install(pid)
