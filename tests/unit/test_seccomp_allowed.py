"""The workers' filters, judged by running them."""

from __future__ import annotations

import errno

import pytest

from supervisor.seccomp.allowed import Filters, allowed_calls, worker_filters
from workers.confinement.seccomp import Filter
from workers.protocol import OWN_PID

from .bpf import ALLOW, ERRNO, HIGH, I386, KILL_PROCESS, MACHINES, TRAP, numbers, verdict


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def programs(filters: Filters) -> dict[str, bytes]:
    """The four that a worker of one thread may begin with, by name."""
    names = [name for name in Filters.__slots__ if name.endswith("_network") and not name.startswith("threaded")]
    return {name: getattr(filters, name) for name in names}


def test_listed_calls_are_allowed_and_no_others(machine: str) -> None:
    calls = numbers(machine)
    assert len(calls) > 300
    for which, program in programs(worker_filters(machine)).items():
        by_argument = {"rt_sigaction": (11,), "tgkill": (OWN_PID,), "ioctl": (0, 0x541B), "prctl": (15,)}
        by_argument |= {"socket": (2, 1), "setsockopt": (0, 1, 2), "rt_sigprocmask": (1,), "seccomp": (1, 0)}
        allowed = {
            name
            for name, number in calls.items()
            if verdict(program, number, *by_argument.get(name, ()), arch=MACHINES[machine]) == ALLOW
        }
        stacking = {"seccomp"} if which.startswith("compiled") else set()
        assert allowed == (allowed_calls(which.endswith("with_network")) & calls.keys()) | stacking


def test_threads_can_be_made_and_processes_cannot(machine: str) -> None:
    calls = numbers(machine)
    filters = worker_filters(machine)

    def says(name: str, *arguments: int) -> int:
        return verdict(filters.threaded_without_network, calls[name], *arguments, arch=MACHINES[machine])

    thread = 0x3D0F00  # what pthread_create() asks for
    assert says("clone", thread) == ALLOW
    assert says("clone", 17) == says("clone", thread & ~0x10000) == says("execve") == KILL_PROCESS
    assert says("socket", 2, 1) == ERRNO | errno.EACCES  # its library tells the guest
    assert [says("pwritev2", 0, 1, 1, 0, 0, flags) for flags in (0x10, 0x20, 0x30)] == [ALLOW, *[KILL_PROCESS] * 2]
    assert [says("fcntl", 0, what) for what in (3, 8)] == [ALLOW, KILL_PROCESS]  # F_GETFL, F_SETOWN
    assert says("clone3") == ERRNO | errno.ENOSYS
    assert says("mprotect", 0, 1, 5) == ALLOW  # while the product is loaded
    assert says("mprotect", 0, 1, 7) == says("mmap", 0, 1, 7, 0x22) == says("mmap", 0, 1, 5, 0x22) == KILL_PROCESS
    for name in ("mprotect", "mmap", "chdir", "seccomp"):
        assert verdict(filters.no_new_code, calls[name], 0, 1, 5, arch=MACHINES[machine]) == TRAP
        assert verdict(filters.threaded_no_new_code, calls[name], 0, 1, 5, arch=MACHINES[machine]) == KILL_PROCESS


def test_the_other_abis_of_a_machine_trap() -> None:
    filters = worker_filters("x86_64")
    for program in (*programs(filters).values(), filters.no_new_code, filters.threaded_no_new_code):
        assert verdict(program, 3, arch=I386) == TRAP
    assert verdict(filters.interpreted_without_network, 0x40000000) == TRAP
    assert verdict(filters.interpreted_without_network, -1) == TRAP
    assert verdict(worker_filters("aarch64").interpreted_without_network, 63, arch=0x40000028) == TRAP


def test_arguments_are_judged_by_what_the_kernel_looks_at(machine: str) -> None:
    filters = worker_filters(machine)
    calls = numbers(machine)

    def says(name: str, *arguments: int, network: bool = False) -> int:
        program = filters.interpreted_with_network if network else filters.interpreted_without_network
        return verdict(program, calls[name], *arguments, arch=MACHINES[machine])

    for sign in (7, 8, 11, 13):
        assert says("rt_sigaction", sign) == says("rt_sigaction", sign | HIGH) == ALLOW
    for sign in (6, 15, 31, 31 | HIGH, 64):
        assert says("rt_sigaction", sign) == TRAP
    assert says("rt_sigprocmask", 1) == ALLOW
    assert says("rt_sigprocmask", 0) == says("rt_sigprocmask", 2) == ERRNO
    assert says("tgkill", 1) == says("tgkill", -1) == TRAP
    for operation in (0, 128, 1 | 128, 9 | 384, 10 | 128):
        assert says("futex", 0, operation) == ALLOW
    for operation in (6, 8 | 128, 11, 13 | 128, 0x200):
        assert says("futex", 0, operation) == TRAP
    assert says("mmap", 0, 1, 3, 0x22) == says("mmap", 0, 1, 3, 0x02) == ALLOW
    assert says("mprotect", 0, 1, 3) == ALLOW
    assert says("socket", 2, 1) == TRAP
    for family in (2, 10):
        assert says("socket", family, 1, network=True) == ALLOW
        assert says("socket", family | HIGH, 2 | 0o2000000, network=True) == ALLOW
        assert says("socket", family, 3, network=True) == TRAP
        for kind, protocol in ((1, 6), (2, 17), (1 | 0o2004000, 6 | HIGH)):
            assert says("socket", family, kind, protocol, network=True) == ALLOW
        # Flags that do not exist; MPTCP, SCTP, UDP-Lite, ICMP, raw; each of the other kind.
        for kind, protocol in ((1 | 0x10, 0), (1, 262), (1, 132), (2, 136), (2, 1), (2, 255), (1, 17), (2, 6)):
            assert says("socket", family, kind, protocol, network=True) == TRAP
    assert says("socket", 1, 1, network=True) == ERRNO | errno.EAFNOSUPPORT
    assert says("socket", 16, 3, network=True) == ERRNO | errno.EAFNOSUPPORT
    assert says("socket", 17, 3, network=True) == says("socket", 38, 5, network=True) == TRAP


def test_machine_code_is_mapped_from_a_compiled_modules_file_alone_and_only_while_it_is_loaded(machine: str) -> None:
    filters = worker_filters(machine)
    calls = numbers(machine)
    anonymous, from_file = 0x22, 0x02
    for which, program in programs(filters).items():

        def says(name: str, *arguments: int, program: bytes = program) -> int:
            return verdict(program, calls[name], *arguments, arch=MACHINES[machine])

        for protection in (4, 5, 7, 5 | HIGH):
            assert says("mmap", 0, 1, protection, anonymous) == TRAP
            assert says("mprotect", 0, 1, protection) == TRAP
            assert says("mprotect", 0, 1, protection, program=filters.no_new_code) == TRAP
            assert says("mmap", 0, 1, protection, from_file, program=filters.no_new_code) == TRAP
        assert says("mmap", 0, 1, 7, from_file) == TRAP
        assert says("mmap", 0, 1, 5, from_file) == (ALLOW if which.startswith("compiled") else TRAP)
        for other in ("pkey_mprotect", "remap_file_pages", "shmat", "memfd_create", "execve", "execveat", "uselib"):
            if other in calls:
                assert says(other, 0, 1, 4) == TRAP
    for name in ("read", "mmap", "mprotect", "openat"):
        assert verdict(filters.no_new_code, calls[name], 0, 1, 3, arch=MACHINES[machine]) == ALLOW
    assert verdict(filters.no_new_code, calls["seccomp"], 1, 0, arch=MACHINES[machine]) == TRAP


def test_a_compiled_guest_may_only_add_a_filter_without_flags(machine: str) -> None:
    calls = numbers(machine)
    program = worker_filters(machine).compiled_without_network
    assert verdict(program, calls["seccomp"], 1, 0, arch=MACHINES[machine]) == ALLOW
    for operation, flags in ((0, 0), (1, 8), (2, 0), (3, 0)):  # flag 8 makes a listener
        assert verdict(program, calls["seccomp"], operation, flags, arch=MACHINES[machine]) == TRAP


def test_a_worker_puts_its_pid_in() -> None:
    for program in programs(worker_filters()).values():
        assert program.count(OWN_PID.to_bytes(4, "little")) == 1
    with pytest.raises(ValueError, match="no seccomp filter"):
        Filter(b"12345")
