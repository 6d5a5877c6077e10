"""What a worker gives up before it looks at the guest's module. Every step here is one way."""

from __future__ import annotations

import struct

from .. import linux
from ..calls.call_list import NEGATIVE
from .landlock import Landlock
from .seccomp import Filter, Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..calls.call_list import CallList, Data
    from ..protocol import StartRequest

_CAPABILITY_VERSION_3 = 0x20080522


def drop_bounding_set() -> None:
    """Empty the capability bounding set (capabilities(7)).

    It matters at exec only, and neither forkserver nor worker execs: so the forkserver does it once,
    and its forks inherit it for nothing. Raises ``OSError``.
    """
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        last = int(file.read())
    for capability in range(last + 1):
        linux.prctl(linux.PR_CAPBSET_DROP, capability)


def become(calls: CallList, uid: int, gid: int, groups: list[int], stage: int = 0) -> None:
    """Become the container's user, with no capability in any set and no way to gain one.

    no_new_privs bars exec from giving any back; who is not dumpable cannot be traced by the same user's
    other processes, and leaves no core.
    """
    for name, arguments in (
        ("setgroups", (len(groups), struct.pack(f"<{len(groups)}I", *groups))),
        ("setresgid", (gid, gid, gid)),
        ("setresuid", (uid, uid, uid)),
        # capset(2): permitted, effective and inheritable set, twice 32 bits of each, and with them the ambient set
        ("capset", (struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), bytes(24))),
        ("prctl", (linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        ("prctl", (linux.PR_SET_DUMPABLE, 0, 0, 0, 0)),
    ):
        calls.libc(name, *arguments, fails=NEGATIVE, stage=stage)


class Confinement:
    """What a worker is shut into, once for all the workers of a forkserver."""

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

    def shut(
        self, calls: CallList, request: StartRequest, module: int, preopens: list[int], pid: Data, stage: int
    ) -> None:
        """Leave the process the module, its preopens and the system calls of a guest, for good. Its ``pid`` lies there.

        The spec's own filter goes first: the worker's would not let another be installed.
        """
        folders = [(fd, preopen.readonly) for preopen, fd in zip(request.preopens, preopens, strict=True)]
        self._landlock.restrict(calls, folders, [module], request.network, stage)
        Filter(request.seccomp).install(calls, pid, stage)
        (self._networked if request.network else self._alone).install(calls, pid, stage)
