"""A forbidden system call is never carried out, and ends the guest that made it, whatever it does against that.

Tries are made as root without capabilities, where file modes stop nothing.
"""

from __future__ import annotations

import os
import platform
import resource
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.seccomp.allowed import allowed_calls, worker_filters

from ...harness.bare_forkserver import (
    NUMBERS,
    SECONDS,
    SIGSYS,
    BareForkserver,
    WasmtimeForkserver,
    forbidden,
    neighbour,
    refused,
)

PLAIN_TRIES = """
    execve execveat fork vfork clone clone3 wait4 waitid
    ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd pidfd_send_signal kcmp
    kill tkill rt_sigqueueinfo rt_tgsigqueueinfo
    mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    unshare setns bpf keyctl add_key request_key
    io_uring_setup io_uring_enter io_uring_register userfaultfd perf_event_open
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
    setuid setgid setreuid setresuid setresgid setgroups capset personality seccomp
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
    setrlimit prlimit64 setpriority sched_setscheduler sched_setattr sched_setaffinity ioprio_set
    sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex acct quotactl syslog
    mknodat mknod fchmodat fchmod chmod fchownat fchown chown setxattr fsetxattr removexattr truncate
    fchdir openat2 name_to_handle_at open_by_handle_at creat open
    memfd_create memfd_secret shmget shmat msgget semget mq_open
    inotify_init1 fanotify_init signalfd4 eventfd2 timer_create setitimer alarm pause
    splice tee vmsplice sendfile copy_file_range process_madvise move_pages migrate_pages mbind
    pkey_mprotect remap_file_pages modify_ldt arch_prctl iopl ioperm set_thread_area
    sigaltstack rt_sigreturn rt_sigtimedwait rt_sigsuspend ustat sysfs lookup_dcookie vhangup
    socket socketpair bind connect listen accept accept4 sendto sendmsg recvfrom recvmsg setsockopt shutdown
""".split()  # noqa: SIM905


OF_THREADS = ["clone3", "eventfd2", "openat2", "rt_sigreturn", "sigaltstack"]
"""Those that a worker of Wasmtime's may make: its library needs them. clone3 fails, so that clone's flags are seen."""
OF_A_THREAD = [
    *OF_THREADS,
    *["clone", "fstatfs", "getcpu", "membarrier", "pwritev2", "rseq", "sched_getaffinity", "set_robust_list", "statfs"],
]
OF_A_THREAD += ["socket"]  # which fails


@pytest.mark.parametrize("name", [name for name in PLAIN_TRIES if name in NUMBERS])
def test_a_forbidden_call_ends_the_guest_and_is_named(forkserver: BareForkserver, name: str) -> None:
    outcome = forkserver.run("call", str(NUMBERS[name]), "0", "0", "0", "0", "0", "0")
    if (forkserver.threads, name) == (True, "socket"):
        assert refused(outcome) == "EACCES"
    elif forkserver.threads and name in OF_THREADS:
        assert outcome.status != SIGSYS
    else:
        forbidden(outcome, name)


@pytest.mark.parametrize("name", ["socketpair", "setns", "execve", "ptrace", "mount", "kill", "rt_sigreturn"])
def test_a_network_opens_nothing_else(forkserver: BareForkserver, name: str) -> None:
    if forkserver.threads and name in OF_THREADS:
        name = "clone"
    forbidden(forkserver.run("call", str(NUMBERS[name]), "0", "0", "0", "0", network=True), name)


def test_as_the_library_makes_them(forkserver: BareForkserver, folders: list[tuple[Path, bool]]) -> None:
    forbidden(forkserver.run("exec", "/bin/true"), "execve")
    forbidden(forkserver.run("signal", str(os.getpid()), "9"), "kill")
    forbidden(forkserver.run("grow_limit", str(resource.RLIMIT_NOFILE)), "prlimit64")
    if not forkserver.threads:
        forbidden(forkserver.run("bind", "2", "1"), "socket")
    forbidden(forkserver.run("fork"), "clone")


def test_arguments_are_looked_at(forkserver: BareForkserver) -> None:
    pid, high = str(os.getpid()), 1 << 32  # the kernel looks at the low half only, and so must the filter

    def call(name: str, *arguments: int | str) -> None:
        forbidden(forkserver.run("call", str(NUMBERS[name]), *map(str, arguments)), name)

    call("tgkill", pid, pid, 0)
    call("prctl", 1, 9)  # PR_SET_PDEATHSIG
    call("ioctl", 0, 0x5412, "@")  # TIOCSTI
    call("fcntl", 0, 8, pid)  # F_SETOWN
    call("fcntl", 0, 1033, 0)  # F_ADD_SEALS
    call("rt_sigaction", signal.SIGSYS, 0, 0, 8)
    call("rt_sigaction", signal.SIGSYS | high, 0, 0, 8)
    call("rt_sigaction", signal.SIGTERM, 0, 0, 8)
    call("futex", "@", 6)  # FUTEX_LOCK_PI
    call("futex", "@", 11 | 128)  # FUTEX_WAIT_REQUEUE_PI, private
    call("mprotect", 0, 0, 4)
    call("mmap", 0, 4096, 4, 0x22, -1, 0)
    call("mmap", 0, 4096, 7, 0x2, 0, 0)


def test_no_machine_code_is_made_in_memory(forkserver: BareForkserver) -> None:
    forbidden(forkserver.run("make_code"), "mmap")
    forbidden(forkserver.run("turn_into_code"), "mprotect")


@pytest.mark.parametrize("suffix", ["wasm", "so"])
def test_no_machine_code_is_mapped_from_a_file(
    forkserver: BareForkserver, folders: list[tuple[Path, bool]], suffix: str
) -> None:
    """A compiled guest's filter allows it while its module is loaded, and no longer."""
    module = folders[0][0] / f"module.{suffix}"
    module.write_bytes(forkserver.module)
    forbidden(forkserver.run("map_code", "code", module=module, folders=folders), "mmap")
    call = ("call", str(NUMBERS["seccomp"]), "1", "0", "@")
    forbidden(forkserver.run(*call, module=module, folders=folders), "seccomp")


def test_another_abi_of_the_machine_is_forbidden(forkserver: BareForkserver) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is an ABI of x86_64")
    outcome = forkserver.run("call", str(0x40000000 + NUMBERS["getpid"]))
    assert outcome.status == SIGSYS
    if not forkserver.threads:
        assert outcome.stderr == f"wasm-sandboxer: forbidden system call unknown ({0x40000000 + NUMBERS['getpid']})\n"


def test_the_handler_cannot_be_replaced(forkserver: BareForkserver) -> None:
    forbidden(forkserver.run("set_handler", str(int(signal.SIGSYS)), "1"), "rt_sigaction")
    forbidden(forkserver.run("set_handler", str(int(signal.SIGSYS)), "0"), "rt_sigaction")


def test_blocking_the_signal_does_not_help(forkserver: BareForkserver) -> None:
    forbidden(forkserver.run("blocked", str(NUMBERS["unshare"])), "unshare")


def test_a_handler_overwritten_in_memory_does_not_help(forkserver: BareForkserver) -> None:
    outcome = forkserver.run("neutered", str(NUMBERS["unshare"]))
    assert (outcome.status, outcome.stdout) == (SIGSYS, "")


def test_a_full_or_closed_stderr_does_not_help(forkserver: BareForkserver) -> None:
    ours, theirs = os.pipe()
    outcome = forkserver.run("stderr_full", str(NUMBERS["unshare"]), stderr=theirs)
    os.close(ours)
    os.close(theirs)
    assert (outcome.status, outcome.call) == (SIGSYS, -1 if forkserver.threads else NUMBERS["unshare"])
    assert forkserver.run("stderr_closed", str(NUMBERS["unshare"])).status == SIGSYS


def test_a_sigsys_sent_from_outside_names_no_call(forkserver: BareForkserver) -> None:
    with neighbour(forkserver) as worker:
        os.kill(worker.pid, signal.SIGSYS)
        outcome = worker.wait()
    assert (outcome.status, outcome.stderr, outcome.call) == (SIGSYS, "", -1)


def test_memory_descriptors_and_files_end_at_their_limits(
    forkserver: BareForkserver, folders: list[tuple[Path, bool]]
) -> None:
    limit = [(int(resource.RLIMIT_AS), 1 << 30, 1 << 30)]
    assert refused(forkserver.run("eat_memory", "4096", rlimits=limit)) in ("ENOMEM", "MemoryError")
    limit = [(int(resource.RLIMIT_NOFILE), 64, 64)]
    assert refused(forkserver.run("eat_descriptors", "4096", rlimits=limit)) == "EMFILE"
    limit = [(int(resource.RLIMIT_FSIZE), 1 << 20, 1 << 20)]
    outcome = forkserver.run("eat_disk", "64", rlimits=limit, folders=folders)
    assert outcome.status == 128 + signal.SIGXFSZ
    assert (folders[0][0] / "flood").stat().st_size == 1 << 20


def test_every_other_number_is_forbidden(forkserver: BareForkserver) -> None:
    """Whatever has no name here yet, too."""
    names = {*allowed_calls(network=False), "getcwd", *(OF_A_THREAD if forkserver.threads else ())}
    allowed = {NUMBERS[name] for name in names if name in NUMBERS}
    numbers = [number for number in range(480) if number not in allowed]
    through = {number for number in numbers if forkserver.run("call", str(number)).status != SIGSYS}
    of_probes = {335, 336} if platform.machine() == "x86_64" else set()  # the kernel passes them by (seccomp.c)
    assert through <= of_probes


def test_a_forbidden_call_of_another_thread_ends_the_guest_at_once(tmp_path: Path) -> None:
    """Whatever the first thread is at: nobody waits for the interpreter, to name the call."""
    (tmp_path / "product.so").write_bytes(bytes(64))
    threaded = BareForkserver(worker_filters(), broken_out=False, program="tests.harness.broken_out_threads")
    worker = threaded.start("change_folder", "60", module=tmp_path / "product.so")
    pidfd = os.pidfd_open(worker.pid)
    ended, _, _ = select.select([pidfd], [], [], SECONDS)
    if not ended:
        os.kill(worker.pid, 9)
    os.close(pidfd)
    assert worker.wait().status == SIGSYS
    threaded.close()


def test_processes_cannot_be_made_at_all(forkserver: BareForkserver) -> None:
    assert forkserver.run("fork").status == SIGSYS


# --- workers of Wasmtime's, which may have threads ----------------------------------------------------------------


@pytest.fixture(scope="module")
def threaded() -> Iterator[BareForkserver]:
    made = WasmtimeForkserver()
    yield made
    made.close()


@pytest.mark.parametrize("name", ["unshare", "execve", "ptrace", "bind", "kill", "mount", "setns"])
def test_a_thread_is_behind_the_same_filter(threaded: BareForkserver, name: str) -> None:
    forbidden(threaded.run("in_thread", "call", str(NUMBERS[name]), "0", "0", "0", "0", "0", "0"), name)


def test_a_thread_opens_nothing_of_the_hosts(threaded: BareForkserver, folders: list[tuple[Path, bool]]) -> None:
    assert refused(threaded.run("in_thread", "open", "0", "file", "0", folders=folders)) == "done 1"
    assert refused(threaded.run("in_thread", "own_fds", folders=folders)) == "done 8"
    forbidden(threaded.run("in_thread", "make_code"), "mmap")
    forbidden(threaded.run("in_thread", "turn_into_code"), "mprotect")
    openat2 = ("call", str(NUMBERS["openat2"]), "-100")
    assert refused(threaded.run(*openat2, "@/etc/passwd", "@", "24", folders=folders)) == "ENOENT"
    assert refused(threaded.run(*openat2, "@/", "@", "24", folders=folders)) == "EACCES"


@pytest.mark.parametrize(
    ("namespace", "error"),
    [
        (0x00020000, "EPERM"),  # CLONE_NEWNS, and so on (clone(2))
        (0x02000000, "EPERM"),
        (0x04000000, "EPERM"),
        (0x08000000, "EPERM"),
        (0x10000000, "EINVAL"),  # CLONE_NEWUSER, CLONE_NEWPID: never of a thread
        (0x20000000, "EINVAL"),
        (0x40000000, "EPERM"),
    ],
)
def test_a_thread_is_made_in_no_other_namespace(threaded: BareForkserver, namespace: int, error: str) -> None:
    flags = 0x10000 | 0x800 | 0x100 | namespace  # CLONE_THREAD, CLONE_SIGHAND, CLONE_VM
    assert refused(threaded.run("call", str(NUMBERS["clone"]), str(flags), "0", "0", "0", "0")) == error


@pytest.mark.parametrize("flags", [0, 0x100, 0x4100, 0x8100])
def test_what_is_no_thread_is_not_made(threaded: BareForkserver, flags: int) -> None:
    """Not with its parent's memory, nor as vfork(2) does it, nor as another's child."""
    forbidden(threaded.run("call", str(NUMBERS["clone"]), str(flags), "0", "0", "0", "0"), "clone")


def test_threads_end_at_their_limit(threaded: BareForkserver) -> None:
    limit = [(int(resource.RLIMIT_NPROC), 8, 8)]
    outcome = refused(threaded.run("eat_threads", "64", rlimits=limit, uid=54321, gid=54321))
    assert 0 < int(outcome.split()[1]) < 8
