"""The allow lists: which system calls a worker may make, and which the compiler.

The workers' list is measured. "Seen" is what tests/bench/measure_syscalls.py saw libwasmedge 0.14, compiled modules,
glibc and the worker's last steps use while the conformance guests ran. "Kin" are other ways of the same, which another
libc, architecture or kernel takes. Any other call ends the guest.
"""

from __future__ import annotations

import errno
import functools
import os
import platform

from workers.greeting import Filters
from workers.protocol import OWN_PID

from .library import ALLOW, ERRNO, KILL_PROCESS, TRAP, FilterBuilder, call_names, low

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

_MEMORY_SEEN = "brk munmap"  # malloc and linear memory (mmap and mprotect are below)
_MEMORY_KIN = "mremap madvise"

# The end; abort() and proc_raise; how full a stream is (poll_oneoff asks any)
_ENDING_SEEN = "exit_group getpid gettid getsockopt"
_ENDING_KIN = "exit"

_ALWAYS = (
    f"{_FILES_SEEN} {_FILES_KIN} {_WAITING_SEEN} {_WAITING_KIN} {_MEMORY_SEEN} {_MEMORY_KIN} "
    f"{_ENDING_SEEN} {_ENDING_KIN} chdir"
).split()

_NETWORK_SEEN = """
    bind connect listen accept sendmsg recvmsg sendto recvfrom shutdown getsockname getpeername uname
"""  # WasmEdge's sockets, and getaddrinfo (uname, too); socket and setsockopt are below
_NETWORK_KIN = "accept4 sendmmsg recvmmsg"
_NETWORK = f"{_NETWORK_SEEN} {_NETWORK_KIN}".split()

_THREADS_SEEN = "rt_sigreturn openat2 eventfd2 set_robust_list rseq sched_getaffinity sigaltstack statfs fstatfs"
_THREADS_KIN = "membarrier getcpu"
_THREADS = f"{_THREADS_SEEN} {_THREADS_KIN}".split()  # libwasmtime's, which waits and reads files in threads

# Allowed by one argument: (argument, values).
_OF_LIBC = (32, 33)  # SIGCANCEL and SIGSETXID (nptl(7))
_SIGILL, _SIGBUS, _SIGFPE, _SIGSEGV, _SIGPIPE = 4, 7, 8, 11, 13
_SIG_BLOCK, _SIG_UNBLOCK, _SIG_SETMASK = 0, 1, 2
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
_TCGETS, _TIOCOUTQ, _FIONREAD = 0x5401, 0x5411, 0x541B
_PR_SET_NAME = 15
_RWF_APPEND = 0x10
_BY_ARGUMENT = {
    "rt_sigaction": (0, (_SIGBUS, _SIGFPE, _SIGSEGV, _SIGPIPE)),  # AOT traps; the worker's last step. Never SIGSYS
    "rt_sigprocmask": (0, (_SIG_UNBLOCK,)),  # a trap's own
    "tgkill": (0, (OWN_PID,)),  # abort() and proc_raise; the worker puts its pid in
    "prctl": (0, (_PR_SET_NAME,)),  # the reporter's
    "ioctl": (1, (_TCGETS, _TIOCOUTQ, _FIONREAD)),  # isatty, poll_oneoff. Never TIOCSTI
    # Never F_SETOWN, by which SIGIO reaches other processes.
    "fcntl": (1, (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC)),
}
# WAIT, WAKE, REQUEUE, WAIT_BITSET, WAKE_BITSET (futex(2)): C++ one-time set-up, threads. Never those of priority
# inheritance: guests have no use for these, and kernels have had faults in them.
_FUTEX_OPERATIONS, _FUTEX_FLAGS = (0, 1, 3, 9, 10), 0x180
_PROT_WRITE, _PROT_EXEC, _MAP_ANONYMOUS = 2, 4, 0x20
_SECCOMP_SET_MODE_FILTER = 1

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_FLAGS = 1, 2, 0o2004000  # SOCK_CLOEXEC | SOCK_NONBLOCK (socket(2))
_IPPROTO_IP, _IPPROTO_TCP, _IPPROTO_UDP = 0, 6, 17
_PROTOCOLS = (
    (_SOCK_STREAM, _IPPROTO_IP),
    (_SOCK_STREAM, _IPPROTO_TCP),
    (_SOCK_DGRAM, _IPPROTO_IP),
    (_SOCK_DGRAM, _IPPROTO_UDP),
)
# All that WASI has a name for, and what the resolver sets; by level (linux/in.h, tcp.h, asm-generic/socket.h).
_SOCKET_OPTIONS = {
    1: (2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 18, 20, 21, 25, 30),  # SO_REUSEADDR to SO_SNDTIMEO, ..., SO_ACCEPTCONN
    0: (2, 11),  # IP_TTL, IP_RECVERR
    6: (1, 4, 5, 6),  # TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT
    41: (16, 25, 26),  # IPV6_UNICAST_HOPS, IPV6_RECVERR, IPV6_V6ONLY
}

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


def worker_filters(machine: str = platform.machine()) -> Filters:
    """Build the workers' filters for this machine. Raises ``SeccompMissing``."""
    return Filters(
        _worker(machine, compiled=False, network=False),
        _worker(machine, compiled=False, network=True),
        _worker(machine, compiled=True, network=False),
        _worker(machine, compiled=True, network=True),
        _no_new_code(machine),
        call_names(machine),
        _worker(machine, compiled=True, network=False, threads=True),
        _worker(machine, compiled=True, network=True, threads=True),
        _no_new_code(machine, threads=True),
    )


def compiler_filter(machine: str = platform.machine()) -> bytes:
    """Build the filter of the compiler's process (``workers/compiler.py``). Raises ``SeccompMissing``.

    What it forbids fails with EPERM and does not kill: another LLVM may ask for something it can do without.
    """
    with FilterBuilder(ERRNO | errno.EPERM, machine) as builder:
        for name in f"{_COMPILER_SEEN} {_COMPILER_KIN}".split():
            builder.rule(ALLOW, name)
        # Threads, but no processes. The C library takes clone() where there is no clone3(), whose flags cannot be seen.
        builder.rule(ALLOW, "clone", low(0, _CLONE_THREAD, _CLONE_THREAD))
        builder.rule(ERRNO | errno.ENOSYS, "clone3")
        return builder.program()


@functools.cache
def log_filter(machine: str = platform.machine()) -> bytes:
    """Build a filter for guests whose standard output or error is a file: they may append to it, and nothing else.

    O_APPEND can be cleared and what was written cut off; so neither is allowed for these two descriptors, nor any
    duplicate of them. All else is left to the worker's own filter. Raises ``SeccompMissing``.
    """
    refuse = ERRNO | errno.EPERM
    with FilterBuilder(ALLOW, machine) as builder:
        for fd in (1, 2):
            for name in ("ftruncate", "fallocate", "utimensat", "dup", "dup3"):
                builder.rule(refuse, name, low(0, fd))
            for operation in (_F_DUPFD, _F_DUPFD_CLOEXEC):
                builder.rule(refuse, "fcntl", low(0, fd), low(1, operation))
            builder.rule(refuse, "fcntl", low(0, fd), low(1, _F_SETFL), low(2, 0, os.O_APPEND))
        return builder.program()


def allowed_calls(network: bool) -> frozenset[str]:
    """The calls that a guest may make, some only with certain arguments."""
    names = {*_ALWAYS, *_BY_ARGUMENT, "futex", "mmap", "mprotect"}
    return frozenset(names | {*_NETWORK, "socket", "setsockopt"} if network else names)


def _worker(machine: str, compiled: bool, network: bool, threads: bool = False) -> bytes:
    # The handler that names a forbidden call is for one thread: with more, the kernel ends the process at once.
    with FilterBuilder(KILL_PROCESS if threads else TRAP, machine) as builder:
        for name in _ALWAYS:
            builder.rule(ALLOW, name)
        for name, (argument, values) in _BY_ARGUMENT.items():
            for value in values:
                builder.rule(ALLOW, name, low(argument, value))
        for operation in _FUTEX_OPERATIONS:
            builder.rule(ALLOW, "futex", low(1, operation, ~_FUTEX_FLAGS & 0xFFFFFFFF))
        builder.rule(ALLOW, "mprotect", low(2, 0, _PROT_EXEC))
        builder.rule(ALLOW, "mmap", low(2, 0, _PROT_EXEC))
        if compiled:
            # Machine code comes from a file and is never writable; the filter on top ends this once it is loaded.
            builder.rule(ALLOW, "mmap", low(2, 0, _PROT_WRITE), low(3, 0, _MAP_ANONYMOUS))
            builder.rule(ERRNO | errno.ENOENT, "getcwd")  # dlopen() wants to know, and does without
            builder.rule(ALLOW, "seccomp", low(0, _SECCOMP_SET_MODE_FILTER), low(1, 0))
        # Blocking signals does nothing and says it has: fork() and its like block them first, and a SIGSYS that is
        # blocked kills before its handler has named the call.
        for how in (_SIG_BLOCK, _SIG_SETMASK):
            builder.rule(ERRNO, "rt_sigprocmask", low(0, how))
        if threads:
            _allow_threads(builder)
        if network:
            _allow_network(builder)
        elif threads:  # its library tells the guest: so an HTTP request fails, and the guest goes on
            builder.rule(ERRNO | errno.EACCES, "socket")
        return builder.program()


def _allow_threads(builder: FilterBuilder) -> None:
    """Threads, and no processes; and what libwasmtime's scheduler of them uses."""
    for name in _THREADS:
        builder.rule(ALLOW, name)
    for number in (_SIGILL, *_OF_LIBC):  # its code's way to trap; what pthread_create() sets up
        builder.rule(ALLOW, "rt_sigaction", low(0, number))
    # How it appends. Never RWF_NOAPPEND, by which a log could be written over.
    for flags in (0, _RWF_APPEND):
        builder.rule(ALLOW, "pwritev2", low(5, flags))
    # The C library takes clone() where there is no clone3(), whose flags cannot be seen.
    builder.rule(ALLOW, "clone", low(0, _CLONE_THREAD, _CLONE_THREAD))
    builder.rule(ERRNO | errno.ENOSYS, "clone3")
    # A product is mapped to be written to and then made executable; the filter on top ends this once it is loaded.
    builder.rule(ALLOW, "mprotect", low(2, _PROT_EXEC, _PROT_EXEC | _PROT_WRITE))


def _allow_network(builder: FilterBuilder) -> None:
    for name in _NETWORK:
        builder.rule(ALLOW, name)
    # Any other protocol may load a kernel module of its own (MPTCP, UDP-Lite, SCTP).
    for family in (_AF_INET, _AF_INET6):
        for kind, protocol in _PROTOCOLS:
            builder.rule(ALLOW, "socket", low(0, family), low(1, kind, ~_SOCK_FLAGS & 0xFFFFFFFF), low(2, protocol))
    for level, options in _SOCKET_OPTIONS.items():  # others attach programs, name modules to load, or have had holes
        for option in options:
            builder.rule(ALLOW, "setsockopt", low(1, level), low(2, option))
    # Refused, and no more: the resolver tries both and goes on. A Unix socket would reach every service of the
    # host that trusts the user: no path, and before ABI 6 no abstract name, is any of Landlock's business.
    for family in (_AF_UNIX, _AF_NETLINK):
        builder.rule(ERRNO | errno.EAFNOSUPPORT, "socket", low(0, family))


def _no_new_code(machine: str, threads: bool = False) -> bytes:
    # As in ``_worker``: the handler is for one thread.
    refuse = KILL_PROCESS if threads else TRAP
    with FilterBuilder(ALLOW, machine) as builder:
        for name in ("mmap", "mprotect"):
            builder.rule(refuse, name, low(2, _PROT_EXEC, _PROT_EXEC))
        builder.rule(refuse, "chdir")
        builder.rule(refuse, "seccomp")
        return builder.program()
