"""seccomp filters as finished BPF programs: the workers' own, and what an OCI spec adds to it.

libseccomp builds them, called through ctypes: of its Python bindings one is not on the package index and the
other (pyseccomp) has had no release since January 2021. Building happens here and never in the forkserver,
where every library is paid for at each fork. Programs are for one machine's architecture and no other ABI of
it (libseccomp's "bad architecture"): x32 and 32-bit calls trap like any forbidden call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox_api.errors import InvalidArgument
from workers.protocol import OWN_PID

from .spec import member

LIBRARY = "libseccomp.so.2"

# The workers' allow list. "Seen" is what tests/bench/measure_syscalls.py saw libwasmedge 0.14, AOT products, glibc and
# the worker's last steps use while the conformance guests ran. "Kin" are other ways of the same, which another libc,
# architecture or kernel takes. What is in no group ends the guest.
_FILES_SEEN = """
    openat close fstat newfstatat faccessat2 dup lseek
    read readv pread64 preadv write writev pwritev
    ftruncate fallocate fadvise64 fsync fdatasync utimensat
    mkdirat unlinkat renameat linkat symlinkat readlinkat getdents64
"""  # WASI's files and folders, relative to descriptors; the module and preopens under /proc/self/fd
_FILES_KIN = "faccessat renameat2 pwrite64 statx dup3"

_WAITING_SEEN = """
    epoll_create1 epoll_ctl epoll_wait timerfd_create timerfd_settime poll
    clock_gettime clock_getres sched_yield
"""  # poll_oneoff, clocks; poll is the reporter's and the resolver's
_WAITING_KIN = """
    epoll_pwait epoll_pwait2 ppoll nanosleep clock_nanosleep restart_syscall gettimeofday time getrandom
"""  # restart_syscall is the kernel's, after a pause; clocks are calls without a vDSO; getrandom without RDRAND

_MEMORY_SEEN = "brk munmap futex"  # malloc and linear memory (mmap and mprotect are below); C++ one-time set-up
_MEMORY_KIN = "mremap madvise"

# The end; abort() and proc_raise; how full a stream is (poll_oneoff asks any)
_ENDING_SEEN = "exit_group getpid gettid getsockopt"
_ENDING_KIN = "exit"

_NETWORK_SEEN = """
    bind connect listen accept sendmsg recvmsg sendto recvfrom shutdown setsockopt getsockname getpeername uname
"""  # WasmEdge's sockets, and getaddrinfo (uname, too); socket is below
_NETWORK_KIN = "accept4 sendmmsg recvmmsg"

# The compiler's: "seen" with libLLVM 19 and its lld, at every level.
_COMPILER_SEEN = """
    access brk close exit exit_group fstat ftruncate futex getcwd ioctl lseek madvise mmap mprotect munmap newfstatat
    openat pread64 read rename rseq rt_sigaction rt_sigprocmask sched_getaffinity set_robust_list sigaltstack unlink
    write writev
"""
_COMPILER_KIN = """
    clock_gettime faccessat faccessat2 fallocate fcntl fstatfs getpid getrandom gettid gettimeofday getrusage
    mremap pwrite64 readlink readlinkat renameat renameat2 restart_syscall rt_sigreturn sched_yield statfs statx
    sysinfo tgkill uname unlinkat
"""
_CLONE_THREAD = 0x10000

# Allowed by the low 32 bits of one argument, which are all that the kernel looks at: (argument, values).
_SIGBUS, _SIGFPE, _SIGSEGV, _SIGPIPE = 7, 8, 11, 13
_SIG_BLOCK, _SIG_UNBLOCK, _SIG_SETMASK = 0, 1, 2
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
_TCGETS, _TIOCOUTQ, _FIONREAD = 0x5401, 0x5411, 0x541B
_PR_SET_NAME = 15
_CHOICES = {
    "rt_sigaction": (0, (_SIGBUS, _SIGFPE, _SIGSEGV, _SIGPIPE)),  # AOT traps; the worker's last step. Never SIGSYS
    "rt_sigprocmask": (0, (_SIG_UNBLOCK,)),  # a trap's own
    "tgkill": (0, (OWN_PID,)),  # abort() and proc_raise; the worker puts its pid in
    "prctl": (0, (_PR_SET_NAME,)),  # the reporter's
    "ioctl": (1, (_TCGETS, _TIOCOUTQ, _FIONREAD)),  # isatty, poll_oneoff. Never TIOCSTI
    # Never F_SETOWN, by which SIGIO reaches other processes.
    "fcntl": (1, (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC)),
}
_PROT_WRITE, _PROT_EXEC, _MAP_ANONYMOUS = 2, 4, 0x20

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_TYPE_MASK = 1, 2, 0xF

NEEDED = "openat close fstat newfstatat read pread64 write mmap munmap mprotect brk rt_sigaction getpid exit_group"
"""Without these no module can be loaded and run: a profile that forbids one is refused."""

_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_CALLS = 512  # numbers go no higher yet (456 in libseccomp 2.5.4)

_KILL_PROCESS, _KILL_THREAD, _TRAP, _ERRNO, _TRACE = 0x80000000, 0, 0x00030000, 0x00050000, 0x7FF00000
_LOG, _ALLOW = 0x7FFC0000, 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": _KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": _KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_TRAP": _TRAP,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": _LOG,
    "SCMP_ACT_ALLOW": _ALLOW,
}
_NE, _LT, _LE, _EQ, _GE, _GT, _MASKED_EQ = range(1, 8)
_OPERATORS = {
    "SCMP_CMP_NE": _NE,
    "SCMP_CMP_LT": _LT,
    "SCMP_CMP_LE": _LE,
    "SCMP_CMP_EQ": _EQ,
    "SCMP_CMP_GE": _GE,
    "SCMP_CMP_GT": _GT,
    "SCMP_CMP_MASKED_EQ": _MASKED_EQ,
}
_MAX_ERRNO = 4095
_NO_CALL = -1  # a name that libseccomp does not know
_ATTR_BADARCH, _ATTR_OPTIMIZE = 2, 8
_BINARY_TREE = 2  # a third less time to install than a list of comparisons


def _names(*groups: str) -> list[str]:
    return " ".join(groups).split()


class SeccompMissing(Exception):
    """Filters cannot be built on this machine; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What the forkserver is given once: a filter for workers without a network, one for those with, and names."""

    without_network: bytes
    with_network: bytes
    names: bytes
    """Of all system calls, by number, a line each; an empty line where there is none."""


class _Compare(ctypes.Structure):
    """``struct scmp_arg_cmp``: argument ``arg`` compared with ``a``; masked with ``a`` and compared with ``b``."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _low(argument: int, value: int, mask: int = 0xFFFFFFFF) -> _Compare:
    return _Compare(argument, _MASKED_EQ, mask, value)


class _Builder:
    """One filter under construction (seccomp_init(3) and its like)."""

    def __init__(self, default: int, machine: str) -> None:
        self._lib = _load()
        self._default = default
        arch = _arch(machine)
        self._context = ctypes.c_void_p(self._lib.seccomp_init(default))
        self._native = self._lib.seccomp_arch_native()
        if self._native != arch:
            self._check(self._lib.seccomp_arch_add(self._context, arch), machine)
            self._check(self._lib.seccomp_arch_remove(self._context, self._native), machine)
        self._lib.seccomp_attr_set(self._context, _ATTR_BADARCH, _TRAP)
        self._lib.seccomp_attr_set(self._context, _ATTR_OPTIMIZE, _BINARY_TREE)  # 2.5 and later, else slower

    def __enter__(self) -> _Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.seccomp_release(self._context)

    def rule(self, action: int, name: str, *compares: _Compare) -> None:
        """Take ``action`` on a call where all of ``compares`` hold. A call this machine has not is passed over."""
        # libseccomp wants the number of the machine it runs on, and translates it.
        number = self._lib.seccomp_syscall_resolve_name_arch(self._native, name.encode())
        if number == _NO_CALL or action == self._default:
            return
        array = (_Compare * len(compares))(*compares)
        result = self._lib.seccomp_rule_add_array(self._context, action, number, len(compares), array)
        if result != -errno.EEXIST:
            self._check(result, name)

    def program(self) -> bytes:
        """The filter as the kernel takes it."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check(self._lib.seccomp_export_bpf(self._context, fd), "export")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            raise OSError(-result, f"{LIBRARY}: {what}: {os.strerror(-result)}")


def build(machine: str = platform.machine()) -> Filters:
    """The filters for workers on this machine. Raises ``SeccompMissing``."""
    return Filters(_worker(machine, network=False), _worker(machine, network=True), call_names(machine))


def compiler(machine: str = platform.machine()) -> bytes:
    """A filter for the compiler's cell (``workers/compiler.py``). Raises ``SeccompMissing``.

    What it forbids fails with EPERM and does not kill: another LLVM may ask for something it can do without.
    """
    with _Builder(_ERRNO | errno.EPERM, machine) as filter_:
        for name in _names(_COMPILER_SEEN, _COMPILER_KIN):
            filter_.rule(_ALLOW, name)
        # Threads, but no processes. The C library takes clone() where there is no clone3(), whose flags cannot be seen.
        filter_.rule(_ALLOW, "clone", _low(0, _CLONE_THREAD, _CLONE_THREAD))
        filter_.rule(_ERRNO | errno.ENOSYS, "clone3")
        return filter_.program()


def call_names(machine: str = platform.machine()) -> bytes:
    """As ``Filters.names``. Raises ``SeccompMissing``."""
    lib = _load()
    names = []
    for number in range(_CALLS):
        name = lib.seccomp_syscall_resolve_num_arch(_arch(machine), number)
        names.append(ctypes.string_at(name) if name else b"")
        _free(name)
    return b"\n".join(names).rstrip(b"\n")


def allowed(network: bool) -> frozenset[str]:
    """The calls that a worker may make, some only with certain arguments."""
    names = _names(_FILES_SEEN, _FILES_KIN, _WAITING_SEEN, _WAITING_KIN, _MEMORY_SEEN, _MEMORY_KIN)
    names += [*_names(_ENDING_SEEN, _ENDING_KIN), *_CHOICES, "mmap", "mprotect"]
    if network:
        names += [*_names(_NETWORK_SEEN, _NETWORK_KIN), "socket"]
    return frozenset(names)


def call_name(number: int) -> str:
    """The name of a system call of this machine, or its number where it has none."""
    names = call_names().decode().split("\n")
    return names[number] if 0 <= number < len(names) and names[number] else str(number)


def _worker(machine: str, network: bool) -> bytes:
    with _Builder(_TRAP, machine) as filter_:
        for name in _names(_FILES_SEEN, _FILES_KIN, _WAITING_SEEN, _WAITING_KIN, _MEMORY_SEEN, _MEMORY_KIN):
            filter_.rule(_ALLOW, name)
        for name in _names(_ENDING_SEEN, _ENDING_KIN):
            filter_.rule(_ALLOW, name)
        for name, (argument, values) in _CHOICES.items():
            for value in values:
                filter_.rule(_ALLOW, name, _low(argument, value))
        # Machine code comes from files only, as an AOT product's does: none is made in memory.
        filter_.rule(_ALLOW, "mprotect", _low(2, 0, _PROT_EXEC))
        filter_.rule(_ALLOW, "mmap", _low(2, 0, _PROT_EXEC))
        filter_.rule(_ALLOW, "mmap", _low(2, 0, _PROT_WRITE), _low(3, 0, _MAP_ANONYMOUS))
        # Blocking signals does nothing and says it has: fork() and its like block them first, and a SIGSYS that is
        # blocked kills before its handler has named the call.
        for how in (_SIG_BLOCK, _SIG_SETMASK):
            filter_.rule(_ERRNO, "rt_sigprocmask", _low(0, how))
        if network:
            for name in _names(_NETWORK_SEEN, _NETWORK_KIN):
                filter_.rule(_ALLOW, name)
            for family in (_AF_INET, _AF_INET6):
                for kind in (_SOCK_STREAM, _SOCK_DGRAM):
                    filter_.rule(_ALLOW, "socket", _low(0, family), _low(1, kind, _SOCK_TYPE_MASK))
            # Refused, and no more: the resolver tries both and goes on. A Unix socket would reach every service of the
            # host that trusts the user: no path, and before ABI 6 no abstract name, is any of Landlock's business.
            for family in (_AF_UNIX, _AF_NETLINK):
                filter_.rule(_ERRNO | errno.EAFNOSUPPORT, "socket", _low(0, family))
        return filter_.program()


def from_oci(profile: Mapping[str, Any], machine: str = platform.machine()) -> bytes:
    """An OCI spec's ``linux.seccomp`` as a filter program (config-linux.md, "Seccomp").

    It is installed before the worker's own, and the kernel takes the stricter of both, so neither widens the
    other. Two things differ from what runc makes of it: ``seccomp`` itself is let pass, for the worker's own
    filter comes after and forbids it; and no other ABI of the machine is let in, whatever ``architectures`` says.
    Raises ``InvalidArgument`` where it is malformed, wants a listener, or forbids what the engine cannot do
    without (``NEEDED``), and ``SeccompMissing``.
    """
    where = "linux.seccomp"
    _strings(profile, "architectures", where)
    _strings(profile, "flags", where)
    default = _action(profile, "defaultAction", "defaultErrnoRet", where)
    rules = [rule for each in _objects(profile, "syscalls", where) for rule in _rules(each)]
    _require_needed(default, rules)
    with _Builder(default, machine) as filter_:
        for action, name, compares in rules:
            if name != "seccomp":
                try:
                    filter_.rule(action, name, *compares)
                except OSError as error:
                    raise InvalidArgument(f"config.json: {where}: {error}") from None
        filter_.rule(_ALLOW, "seccomp")
        return filter_.program()


_Rule = tuple[int, str, list[_Compare]]


def _rules(entry: Mapping[str, Any]) -> Iterable[_Rule]:
    where = "linux.seccomp.syscalls"
    action = _action(entry, "action", "errnoRet", where)
    compares = [_compare(each) for each in _objects(entry, "args", where)]
    names = _strings(entry, "names", where)
    if not names:
        raise InvalidArgument(f"config.json: {where} has an entry without names")
    # Conditions on one argument more than once are alternatives, as in runc: libseccomp takes one for each.
    alternatives = len({each.arg for each in compares}) < len(compares)
    for name in names:
        if alternatives:
            yield from ((action, name, [each]) for each in compares)
        else:
            yield action, name, compares


def _require_needed(default: int, rules: list[_Rule]) -> None:
    always = {name: action for action, name, compares in rules if not compares}
    sometimes = {name for action, name, compares in rules if compares and action in (_ALLOW, _LOG)}
    forbidden = [
        name for name in _names(NEEDED) if always.get(name, default) not in (_ALLOW, _LOG) and name not in sometimes
    ]
    if forbidden:
        raise InvalidArgument(
            f"config.json: linux.seccomp forbids {', '.join(forbidden)}, without which the engine runs no module"
        )


def _action(owner: Mapping[str, Any], name: str, number: str, where: str) -> int:
    text = member(owner, name, str, where)
    action = _ACTIONS.get(text or "")
    if action is None:
        raise InvalidArgument(f"config.json: {where}.{name} is {text!r}, not one of {', '.join(_ACTIONS)}")
    if action not in (_ERRNO, _TRACE):
        return action
    value = member(owner, number, int, where)
    value = errno.EPERM if value is None else value
    if not 0 <= value <= _MAX_ERRNO:
        raise InvalidArgument(f"config.json: {where}.{number} is {value}, not 0 to {_MAX_ERRNO}")
    return action | value


def _compare(arg: Mapping[str, Any]) -> _Compare:
    where = "linux.seccomp.syscalls.args"
    operator = _OPERATORS.get(member(arg, "op", str, where) or "")
    index = member(arg, "index", int, where)
    if operator is None or index is None or not 0 <= index <= 5:
        raise InvalidArgument(f"config.json: {where} needs an index of 0 to 5 and an op of {', '.join(_OPERATORS)}")
    values = [member(arg, name, int, where) or 0 for name in ("value", "valueTwo")]
    if not all(0 <= value < 1 << 64 for value in values):
        raise InvalidArgument(f"config.json: {where} holds a value beyond 64 bits")
    return _Compare(index, operator, *values)


def _strings(owner: Mapping[str, Any], name: str, where: str) -> list[str]:
    values = member(owner, name, list, where) or []
    if not all(isinstance(value, str) for value in values):
        raise InvalidArgument(f"config.json: {where}.{name} holds something that is not a string")
    return values


def _objects(owner: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    values = member(owner, name, list, where) or []
    if not all(isinstance(value, dict) for value in values):
        raise InvalidArgument(f"config.json: {where}.{name} holds something that is not an object")
    return values


def _arch(machine: str) -> int:
    arch = _ARCHES.get(machine)
    if arch is None:
        raise SeccompMissing(f"no system calls have been measured on {machine}, only on {' and '.join(_ARCHES)}")
    return arch


def _load() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise SeccompMissing(
            f"{LIBRARY} does not load ({error}): install the package libseccomp2 (Debian) or libseccomp"
        ) from None
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = (ctypes.c_uint32,)
    lib.seccomp_arch_native.restype = ctypes.c_uint32
    lib.seccomp_arch_add.argtypes = lib.seccomp_arch_remove.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    lib.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    )
    lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    lib.seccomp_release.restype = None
    lib.seccomp_release.argtypes = (ctypes.c_void_p,)
    lib.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    lib.seccomp_syscall_resolve_num_arch.argtypes = (ctypes.c_uint32, ctypes.c_int)
    return lib


_free = ctypes.CDLL(None).free
_free.restype = None
_free.argtypes = (ctypes.c_void_p,)
