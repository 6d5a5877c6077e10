"""The steps by which a worker gives up its privileges before it reads the guest's module. None can be undone."""

from __future__ import annotations

import struct

from .. import linux
from ..calls.call_list import NEGATIVE
from ..start_request import WASM
from .landlock import Landlock
from .seccomp import Filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..calls.call_list import CallList, Data
    from ..greeting import Filters
    from ..start_request import StartRequest

_CAPABILITY_VERSION_3 = 0x20080522


def drop_bounding_set() -> None:
    """Empty the capability bounding set (capabilities(7)).

    The forkserver does it once and its forks inherit it: the set matters at exec only, and none of them execs.
    Raises ``OSError``.
    """
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        last = int(file.read())
    for capability in range(last + 1):
        linux.prctl(linux.PR_CAPBSET_DROP, capability)


def drop_privileges(calls: CallList, uid: int, gid: int, groups: list[int], stage: int = 0) -> None:
    """Become the container's user, with no capability in any set and no way to gain one.

    no_new_privs bars exec from giving any back. A process that is not dumpable cannot be traced by the same user's
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
    """The walls around a worker; one object serves all workers of a forkserver."""

    __slots__ = ("_filters", "_landlock", "_no_new_code")

    def __init__(self, filters: Filters) -> None:
        """Take the seccomp filters."""
        self._landlock = Landlock()
        # compiled, threads, network
        self._filters = {
            (False, False, False): Filter(filters.interpreted_without_network),
            (False, False, True): Filter(filters.interpreted_with_network),
            (True, False, False): Filter(filters.compiled_without_network),
            (True, False, True): Filter(filters.compiled_with_network),
            (True, True, False): Filter(filters.threaded_without_network),
            (True, True, True): Filter(filters.threaded_with_network),
        }
        plain = filters.no_new_code
        self._no_new_code = {False: Filter(plain), True: Filter(filters.threaded_no_new_code or plain)}

    @property
    def landlock_abi(self) -> int:
        """Landlock's ABI on this kernel; 0 where there is none."""
        return self._landlock.abi

    def enter(
        self,
        calls: CallList,
        request: StartRequest,
        threads: bool,
        module: int,
        preopens: list[int],
        pid: Data,
        stage: int,
        resolver: int = -1,
    ) -> None:
        """Leave the process the module, its preopens and a guest's system calls, for good. Its ``pid`` lies there.

        With ``threads`` it may make threads; with a ``resolver`` the C library may read the files in that folder. The
        request's own filters go first: the worker's would not let another be installed.
        """
        folders = [(fd, preopen.readonly) for preopen, fd in zip(request.preopens, preopens, strict=True)]
        files = [module] if resolver < 0 else [module, resolver]
        self._landlock.restrict(calls, folders, files, request.network, stage)
        for program in request.seccomp:
            Filter(program).install(calls, pid, stage)
        self._filters[request.module_kind != WASM, threads, request.network].install(calls, pid, stage)

    def forbid_new_code(self, calls: CallList, request: StartRequest, threads: bool, pid: Data, stage: int) -> None:
        """Forbid to map machine code, once the module is loaded. An interpreted guest's filter already does."""
        if request.module_kind != WASM:
            self._no_new_code[threads].install(calls, pid, stage)
