"""A guest that has broken out of WebAssembly finds itself in an empty cell.

Tries are made as root without capabilities, where file modes stop nothing. Each wall is also shown alone.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.seccomp.allowed import log_filter
from workers.confinement import landlock

from ..harness.cells import NUMBERS, ROOT, SIGSYS, WITHOUT_EMPTY_ROOT, Cells, Worker, forbidden, refused, shut
from ..harness.container import Container, Pod


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    """Both walls."""
    made = shut()
    yield made
    made.close()


@pytest.fixture(scope="module")
def landlocked() -> Iterator[Cells]:
    """Landlock alone, in the host's root."""
    made = Cells(under=WITHOUT_EMPTY_ROOT)
    assert made.no_empty_root
    yield made
    made.close()


@pytest.fixture(scope="module")
def without_seccomp() -> Iterator[Cells]:
    """Landlock in an empty root."""
    made = Cells()
    yield made
    made.close()


@pytest.fixture
def folders(tmp_path: Path) -> list[tuple[Path, bool]]:
    """A preopen to write in and one to read."""
    for name in ("rw", "ro"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "file").write_text("content")
    return [(tmp_path / "rw", False), (tmp_path / "ro", True)]


@contextmanager
def neighbour(cells: Cells) -> Iterator[Worker]:
    """A worker of the same user that waits."""
    read, write = os.pipe()
    worker = cells.start("wait", stdin=read)
    os.close(read)
    yield worker
    os.close(write)


# --- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("/etc/shadow", os.O_RDONLY),
        ("/etc/passwd", os.O_RDONLY),
        ("/proc/1/environ", os.O_RDONLY),
        ("/proc/self/environ", os.O_RDONLY),
        ("/proc/self/mem", os.O_RDWR),
        ("/proc/self/root/etc/shadow", os.O_RDONLY),
        ("/sys/kernel/uevent_helper", os.O_RDONLY),
        ("/dev/mem", os.O_RDONLY),
        ("/dev/null", os.O_RDONLY),
        ("/", os.O_RDONLY | os.O_DIRECTORY),
        ("/proc", os.O_RDONLY | os.O_DIRECTORY),
        ("/tmp/planted", os.O_CREAT | os.O_WRONLY),
        ("/etc/passwd", os.O_WRONLY | os.O_TRUNC),
    ],
)
def test_files_of_the_host_are_out_of_reach(
    cells: Cells, landlocked: Cells, folders: list[tuple[Path, bool]], path: str, flags: int
) -> None:
    there = os.path.exists(path) or flags & os.O_CREAT
    for made, error in ((cells, "EACCES" if path == "/" else "ENOENT"), (landlocked, "EACCES" if there else "ENOENT")):
        assert refused(made.run("open", "-", path, str(flags), folders=folders)) == error


def test_a_preopen_has_no_way_up(cells: Cells, landlocked: Cells, folders: list[tuple[Path, bool]]) -> None:
    (folders[0][0] / "link").symlink_to("/etc/passwd")
    for path in ("../outside", "link", os.path.relpath("/etc/passwd", folders[0][0])):
        for made in (cells, landlocked):
            outcome = refused(made.run("open", "0", path, str(os.O_RDWR | os.O_CREAT), folders=folders))
            assert outcome == ("ENOENT" if (made, path) == (cells, "link") else "EACCES")


def test_the_preopens_are_usable_as_their_mounts_say(cells: Cells, folders: list[tuple[Path, bool]]) -> None:
    read, write, create = str(os.O_RDONLY), str(os.O_WRONLY), str(os.O_CREAT | os.O_WRONLY)
    assert refused(cells.run("open", "0", "file", read, folders=folders)) == "done 1"
    assert refused(cells.run("open", "0", "sub/new", create, folders=folders)) == "done"
    assert refused(cells.run("truncate", "0", "file", folders=folders)) == "done 3"
    assert refused(cells.run("rename", "0", "sub/new", "0", "new", folders=folders)) == "done"
    assert refused(cells.run("link", "0", "new", "0", "sub/new", folders=folders)) == "done"
    assert refused(cells.run("open", "1", "file", read, folders=folders)) == "done 1"
    assert refused(cells.run("open", "1", "file", write, folders=folders)) == "EACCES"
    assert refused(cells.run("open", "1", "new", create, folders=folders)) == "EACCES"
    assert refused(cells.run("truncate", "1", "file", folders=folders)) == "EACCES"
    assert refused(cells.run("rename", "1", "file", "1", "other", folders=folders)) == "EACCES"
    assert refused(cells.run("rename", "1", "file", "0", "taken", folders=folders)) == "EACCES"
    assert refused(cells.run("rename", "0", "file", "1", "given", folders=folders)) == "EACCES"
    # What may not be written there must not become writable by a second name here.
    assert refused(cells.run("link", "1", "file", "0", "second", folders=folders)) == "EXDEV"


def test_only_its_own_descriptors_are_left(cells: Cells, folders: list[tuple[Path, bool]]) -> None:
    # Streams, and the two folders that the engine opened.
    assert refused(cells.run("own_fds", folders=folders)) == "done 5"


def test_a_module_that_is_on_no_mount(cells: Cells) -> None:
    memory = os.memfd_create("module")
    os.write(memory, b"\0asm\1\0\0\0")
    outcome = cells.run("own_fds", module=Path(f"/proc/self/fd/{memory}"))
    os.close(memory)
    assert refused(outcome) == "done 3"


OLDER_KERNEL = """
import os, sys
from workers import linux
from workers.calls.call_list import CallList, Runner
from workers.confinement import landlock
landlock.abi = lambda: int(sys.argv[1])
folder = os.open(sys.argv[2], os.O_PATH)
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
shut = CallList()
landlock.Landlock().restrict(shut, [(folder, False)], [], False)
Runner().perform(shut)
for attempt in (
    lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
    lambda: os.close(os.open("file", os.O_RDWR | os.O_TRUNC, dir_fd=folder)),
    lambda: os.rename("file", "other", src_dir_fd=folder, dst_dir_fd=folder),
    lambda: os.rename("other", "sub/other", src_dir_fd=folder, dst_dir_fd=folder),
):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.parametrize("abi", range(1, landlock.abi() + 1))
def test_rules_for_older_kernels(folders: list[tuple[Path, bool]], abi: int) -> None:
    """As that kernel would be asked; this one, asked for less, gives less."""
    command = [sys.executable, "-c", OLDER_KERNEL, str(abi), str(folders[0][0])]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    between_folders = str(errno.EXDEV) if abi == 1 else "done"
    assert said == [str(errno.EACCES), "done", "done", between_folders]


@pytest.mark.parametrize("what", ["environ", "mem", "fd/1", "root/etc/passwd", "maps"])
def test_a_neighbour_is_out_of_reach(cells: Cells, landlocked: Cells, what: str) -> None:
    for made, error in ((cells, "ENOENT"), (landlocked, "EACCES")):
        with neighbour(made) as other:
            assert refused(made.run("open", "-", f"/proc/{other.pid}/{what}", str(os.O_RDONLY))) == error
        other.wait()


# --- system calls ----------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", [name for name in PLAIN_TRIES if name in NUMBERS])
def test_a_forbidden_call_ends_the_guest_and_is_named(cells: Cells, name: str) -> None:
    forbidden(cells.run("call", str(NUMBERS[name]), "0", "0", "0", "0", "0", "0"), name)


@pytest.mark.parametrize(
    ("level", "option"),
    [(1, 26), (1, 46), (1, 51), (0, 64), (0, 41), (6, 31), (6, 14), (6, 13), (41, 36), (17, 100), (263, 1)],
)
def test_options_of_sockets_that_wasi_has_no_name_for_are_forbidden(cells: Cells, level: int, option: int) -> None:
    """Among them those that attach programs (SO_ATTACH_FILTER) or name modules (TCP_ULP)."""
    number = str(NUMBERS["setsockopt"])
    forbidden(cells.run("call", number, "0", str(level), str(option), "@", "4", network=True), "setsockopt")


@pytest.mark.parametrize("name", ["socketpair", "setns", "execve", "ptrace", "mount", "kill", "rt_sigreturn"])
def test_a_network_opens_nothing_else(cells: Cells, name: str) -> None:
    forbidden(cells.run("call", str(NUMBERS[name]), "0", "0", "0", "0", network=True), name)


def test_as_the_library_makes_them(cells: Cells, folders: list[tuple[Path, bool]]) -> None:
    forbidden(cells.run("exec", "/bin/true"), "execve")
    forbidden(cells.run("signal", str(os.getpid()), "9"), "kill")
    forbidden(cells.run("grow_limit", str(resource.RLIMIT_NOFILE)), "prlimit64")
    forbidden(cells.run("bind", "2", "1"), "socket")
    forbidden(cells.run("fork"), "clone")


def test_arguments_are_looked_at(cells: Cells) -> None:
    pid, high = str(os.getpid()), 1 << 32  # the kernel looks at the low half only, and so must the filter

    def call(name: str, *arguments: int | str) -> None:
        forbidden(cells.run("call", str(NUMBERS[name]), *map(str, arguments)), name)

    call("tgkill", pid, pid, 0)
    call("prctl", 1, 9)  # PR_SET_PDEATHSIG
    call("ioctl", 0, 0x5412, "@")  # TIOCSTI
    call("fcntl", 0, 8, pid)  # F_SETOWN
    call("fcntl", 0, 1033, 0)  # F_ADD_SEALS
    call("rt_sigaction", signal.SIGSYS, 0, 0, 8)
    call("rt_sigaction", signal.SIGSYS | high, 0, 0, 8)
    call("rt_sigaction", signal.SIGTERM, 0, 0, 8)
    call("mprotect", 0, 0, 4)
    call("mmap", 0, 4096, 4, 0x22, -1, 0)
    call("mmap", 0, 4096, 7, 0x2, 0, 0)


def test_no_machine_code_is_made_in_memory(cells: Cells) -> None:
    forbidden(cells.run("make_code"), "mmap")
    forbidden(cells.run("turn_into_code"), "mprotect")


@pytest.mark.parametrize("suffix", ["wasm", "so"])
def test_no_machine_code_is_mapped_from_a_file(cells: Cells, folders: list[tuple[Path, bool]], suffix: str) -> None:
    """A compiled guest's filter allows it while its module is loaded, and no longer."""
    module = folders[0][0] / f"module.{suffix}"
    module.write_bytes(b"\0asm\1\0\0\0")
    forbidden(cells.run("map_code", "code", module=module, folders=folders), "mmap")
    call = ("call", str(NUMBERS["seccomp"]), "1", "0", "@")
    forbidden(cells.run(*call, module=module, folders=folders), "seccomp")


def test_another_abi_of_the_machine_is_forbidden(cells: Cells) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is an ABI of x86_64")
    outcome = cells.run("call", str(0x40000000 + NUMBERS["getpid"]))
    assert outcome.status == SIGSYS
    assert outcome.stderr == f"wasm-sandboxer: forbidden system call unknown ({0x40000000 + NUMBERS['getpid']})\n"


# --- logs ------------------------------------------------------------------------------------------------------

SPOILING = ["truncate", "punch", "date", "overwrite", "duplicate", "duplicate onto", "duplicate by fcntl", "place"]


@pytest.mark.parametrize("how", SPOILING)
def test_what_is_in_a_log_stays(cells: Cells, tmp_path: Path, how: str) -> None:
    """Containers' outputs may go to files; what is not a file is no business of this filter's."""
    log = tmp_path / "log"
    log.write_text("said before\n")
    os.utime(log, (1000, 1000))
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    outcome = cells.run("spoil_log", how, stdout=fd, seccomp=[log_filter()])
    os.close(fd)
    assert (outcome.report, outcome.status) == ("R", 0), outcome
    said = {"place": "overdone"}.get(how, "EPERM")
    assert log.read_text() == f"said before\n{said}\n"
    assert log.stat().st_mtime > 1000


def test_a_file_of_the_guests_own_is_not_a_log(cells: Cells, folders: list[tuple[Path, bool]]) -> None:
    assert refused(cells.run("truncate", "0", "file", folders=folders, seccomp=[log_filter()])) == "done 3"


def test_a_container_with_a_log_has_that_filter(pod: Pod) -> None:
    def filters(container: Container) -> int:
        status = Path(f"/proc/{container.pid}/status").read_text()
        return int(status.partition("Seccomp_filters:")[2].split()[0])

    logged = pod.with_wasm("sleep").build().start()
    plain = pod.with_wasm("sleep").streams(stdout="", stderr="").build().start()
    assert filters(logged) == filters(plain) + 1


# --- no way around death ---------------------------------------------------------------------------------------


def test_the_handler_cannot_be_replaced(cells: Cells) -> None:
    forbidden(cells.run("set_handler", str(int(signal.SIGSYS)), "1"), "rt_sigaction")
    forbidden(cells.run("set_handler", str(int(signal.SIGSYS)), "0"), "rt_sigaction")


def test_blocking_the_signal_does_not_help(cells: Cells) -> None:
    forbidden(cells.run("blocked", str(NUMBERS["unshare"])), "unshare")


def test_a_handler_overwritten_in_memory_does_not_help(cells: Cells) -> None:
    outcome = cells.run("neutered", str(NUMBERS["unshare"]))
    assert (outcome.status, outcome.stdout) == (SIGSYS, "")


def test_a_full_or_closed_stderr_does_not_help(cells: Cells) -> None:
    ours, theirs = os.pipe()
    outcome = cells.run("stderr_full", str(NUMBERS["unshare"]), stderr=theirs)
    os.close(ours)
    os.close(theirs)
    assert (outcome.status, outcome.call) == (SIGSYS, NUMBERS["unshare"])
    assert cells.run("stderr_closed", str(NUMBERS["unshare"])).status == SIGSYS


def test_a_sigsys_sent_from_outside_names_no_call(cells: Cells) -> None:
    with neighbour(cells) as worker:
        os.kill(worker.pid, signal.SIGSYS)
        outcome = worker.wait()
    assert (outcome.status, outcome.stderr, outcome.call) == (SIGSYS, "", -1)


# --- network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"])
def test_without_a_network_there_are_no_sockets(cells: Cells, family: str) -> None:
    forbidden(cells.run("connect", str(int(getattr(socket, family))), "1", ""), "socket")


def test_with_a_network_there_is_tcp_and_udp(cells: Cells) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for family, where in ((socket.AF_INET, port), (socket.AF_INET6, "")):
                outcome = cells.run("connect", str(int(family)), str(int(kind)), where, network=True)
                assert refused(outcome) == "done"
    assert refused(cells.run("bind", "2", "1", network=True)) == "done"


@pytest.mark.parametrize("where", ["", "@/tmp/.X11-unix/X0", "/run/containerd/containerd.sock"])
def test_a_network_is_no_way_to_the_hosts_services(cells: Cells, where: str) -> None:
    outcome = cells.run("connect", str(int(socket.AF_UNIX)), "1", where, network=True)
    assert refused(outcome) == "EAFNOSUPPORT"


@pytest.mark.parametrize(
    ("family", "kind"),
    [("AF_INET", "SOCK_RAW"), ("AF_INET6", "SOCK_RAW"), ("AF_PACKET", "SOCK_RAW"), ("AF_VSOCK", "SOCK_STREAM")],
)
def test_other_sockets_are_forbidden_with_a_network_too(cells: Cells, family: str, kind: str) -> None:
    numbers = (str(int(getattr(socket, name))) for name in (family, kind))
    forbidden(cells.run("connect", *numbers, "", network=True), "socket")


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("SOCK_STREAM", 262),  # MPTCP
        ("SOCK_STREAM", 132),  # SCTP
        ("SOCK_SEQPACKET", 132),
        ("SOCK_DGRAM", 136),  # UDP-Lite
        ("SOCK_DGRAM", 1),  # ICMP
        ("SOCK_DCCP", 33),
    ],
)
def test_protocols_beside_tcp_and_udp_are_forbidden(cells: Cells, family: str, kind: str, protocol: int) -> None:
    kinds = {"SOCK_DCCP": 6, **{name: int(value) for name, value in vars(socket).items() if name.startswith("SOCK_")}}
    numbers = (int(getattr(socket, family)), kinds[kind], protocol)
    forbidden(cells.run("call", str(NUMBERS["socket"]), *map(str, numbers), network=True), "socket")


@pytest.mark.parametrize(("kind", "protocol"), [(1, 6), (2, 17)])
def test_tcp_and_udp_may_be_asked_for_by_name(cells: Cells, kind: int, protocol: int) -> None:
    call = ("call", str(NUMBERS["socket"]), "2", str(kind), str(protocol))
    assert refused(cells.run(*call, network=True)).startswith("done")


def test_netlink_is_refused(cells: Cells) -> None:
    outcome = cells.run("connect", str(int(socket.AF_NETLINK)), "3", "", network=True)
    assert refused(outcome) == "EAFNOSUPPORT"


# --- Landlock alone --------------------------------------------------------------------------------------------


@pytest.mark.skipif(landlock.abi() < 4, reason="Landlock has no TCP rules here")
def test_landlock_alone_stops_tcp_without_a_network(landlocked: Cells) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert refused(landlocked.run("connect", "2", "1", port)) == "EACCES"
        assert refused(landlocked.run("bind", "2", "1")) == "EACCES"
        assert refused(landlocked.run("connect", "2", "1", port, network=True)) == "done"


@pytest.mark.skipif(landlock.abi() < 6, reason="Landlock has no scopes here")
def test_landlock_alone_stops_signals_and_abstract_sockets(landlocked: Cells) -> None:
    for pid in (os.getpid(), landlocked.pid):
        assert refused(landlocked.run("signal", str(pid), "0")) == "EPERM"
    with neighbour(landlocked) as other:
        assert refused(landlocked.run("signal", str(other.pid), "9")) == "EPERM"
    assert refused(other.wait()) == "done"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0wasm-sandboxer-test")
        server.listen()
        assert refused(landlocked.run("connect", "1", "1", "@wasm-sandboxer-test")) == "EPERM"


def test_landlock_alone_stops_files_and_exec(landlocked: Cells, folders: list[tuple[Path, bool]]) -> None:
    assert refused(landlocked.run("open", "-", "/etc/shadow", "0", folders=folders)) == "EACCES"
    assert refused(landlocked.run("exec", "/bin/true")) == "EACCES"
    program = folders[0][0] / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    assert refused(landlocked.run("exec", str(program), folders=folders)) == "EACCES"


def test_without_seccomp_a_neighbour_is_still_out_of_reach(landlocked: Cells) -> None:
    with neighbour(landlocked) as other:
        attach = ("16", str(other.pid), "0", "0")  # PTRACE_ATTACH
        assert refused(landlocked.run("call", str(NUMBERS["ptrace"]), *attach)) == "EPERM"
        assert refused(landlocked.run("read_memory", str(other.pid))) == "EPERM"
    assert refused(other.wait()) == "done"


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("mount", ("@none", "@/", "@tmpfs", "0", "@"), "EPERM"),
        ("umount2", ("@/", "0"), "EPERM"),
        ("pivot_root", ("@/", "@/"), "EPERM"),
        ("chroot", ("@/",), "EPERM"),
        ("unshare", (str(0x00020000),), "EPERM"),
        ("setns", ("0", "0"), "EINVAL"),
        ("bpf", ("11", "@", "48"), "EPERM"),
        ("init_module", ("@", "0", "@"), "EPERM"),
        ("perf_event_open", ("@", "-1", "0", "-1", "0"), "EACCES"),
        ("setuid", ("1",), "EPERM"),
        ("sethostname", ("@", "1"), "EPERM"),
        ("reboot", ("0", "0", "0", "0"), "EPERM"),
        ("quotactl", ("0", "@/", "0", "@"), "ENOTBLK"),
        ("mknodat", ("-100", "@/null", str(0o020600), "259"), "EROFS"),
        ("swapon", ("@", "0"), "EPERM"),
        ("clock_settime", ("0", "@"), "EPERM"),
        ("iopl", ("3",), "EPERM"),
    ],
)
def test_without_seccomp_it_has_no_privilege(
    without_seccomp: Cells, name: str, arguments: tuple[str, ...], error: str
) -> None:
    if name not in NUMBERS:
        pytest.skip(f"{name} is no system call of this machine")
    outcome = refused(without_seccomp.run("call", str(NUMBERS[name]), *arguments))
    assert outcome in (error, "ENOSYS")


# --- exhaustion ------------------------------------------------------------------------------------------------


def test_memory_descriptors_and_files_end_at_their_limits(cells: Cells, folders: list[tuple[Path, bool]]) -> None:
    limit = [(int(resource.RLIMIT_AS), 1 << 30, 1 << 30)]
    assert refused(cells.run("eat_memory", "4096", rlimits=limit)) in ("ENOMEM", "MemoryError")
    limit = [(int(resource.RLIMIT_NOFILE), 64, 64)]
    assert refused(cells.run("eat_descriptors", "4096", rlimits=limit)) == "EMFILE"
    limit = [(int(resource.RLIMIT_FSIZE), 1 << 20, 1 << 20)]
    outcome = cells.run("eat_disk", "64", rlimits=limit, folders=folders)
    assert outcome.status == 128 + signal.SIGXFSZ
    assert (folders[0][0] / "flood").stat().st_size == 1 << 20


def test_processes_cannot_be_made_at_all(cells: Cells) -> None:
    assert cells.run("fork").status == SIGSYS
