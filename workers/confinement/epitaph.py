"""Names the forbidden system call that ends a worker, by C calls: what ``seccomp.Reporter`` does in Python.

A worker may have no Python. The list lies in memory that nobody can write to; what it notes goes into memory of the
worker's that nothing else uses.
"""

from __future__ import annotations

import posix

from .. import linux
from ..calls import machine
from ..calls.call_list import ANY, NONZERO, ZERO, At, CallList, Label, Runner, function
from . import seccomp

SCRATCH_BYTES = 272
"""How much memory it takes in the worker."""

_INFORMATION_BYTES = 32
_CODE, _CALL, _ARCH = 8, 24, 28  # where in ``siginfo_t`` (sigaction(2)), as ``seccomp`` has it
_ROW_BYTES, _NUMBER_BYTES, _TEXT_BYTES = 48, 16, 144
_STDERR_OUT = b"\2\0\0\0\4\0\0\0"  # struct pollfd: POLLOUT (poll(2))


def install(names: bytes, scratch: int, runner: Runner) -> bool:
    """Have it handle SIGSYS in this process and its forks; whether it could be had.

    ``names`` are those of all system calls by number, a line each; ``scratch`` is the worker's memory. Raises
    ``OSError``.
    """
    if not runner.routine:
        return False
    result, information, row, name, length, polled = range(scratch, scratch + 48, 8)
    copy = scratch + 48
    number = copy + _INFORMATION_BYTES
    text = number + _NUMBER_BYTES
    assert text + _TEXT_BYTES <= scratch + SCRATCH_BYTES

    calls = CallList()
    foreign, unknown, named, said, done = (Label() for _ in range(5))
    rows = sorted(b"%d\0 %s" % (i, each) for i, each in enumerate(names.split(b"\n")) if each)
    table = calls.data(b"".join(each[: _ROW_BYTES - 1].ljust(_ROW_BYTES, b"\0") for each in rows))
    calls.libc("memcpy", copy, At(information), _INFORMATION_BYTES)
    kind, arch = (each.to_bytes(4, "little") for each in (seccomp.SYS_SECCOMP, seccomp.ARCH))
    calls.libc("memcmp", copy + _CODE, kind, 4, fails=NONZERO, orelse=done)  # it is of kill(2)
    calls.libc("memcmp", copy + _ARCH, arch, 4, fails=NONZERO, orelse=foreign)
    calls.libc("snprintf", number, _NUMBER_BYTES, b"%d", At(copy + _CALL))
    sought = (number, table, len(rows), _ROW_BYTES, function("strcmp"))
    calls.libc("bsearch", *sought, out=row, fails=ZERO, orelse=unknown)
    calls.libc("memchr", At(row), ord(" "), _ROW_BYTES, out=name, fails=ZERO, orelse=unknown)
    calls.go(named)
    for label, words in ((foreign, b" of a foreign architecture"), (unknown, b" unknown")):
        calls.bind(label)
        calls.libc("memcpy", name, calls.table([words]), 8)
        calls.go(named)
    calls.bind(named)
    # Not where it would block: a full pipe must not keep the process alive.
    calls.libc("memcpy", polled, _STDERR_OUT, 8)
    calls.libc("poll", polled, 1, 0, fails=ZERO, orelse=said)
    line = b"wasm-sandboxer: forbidden system call%s (%d)\n"
    calls.libc("snprintf", text, _TEXT_BYTES, line, At(name), At(copy + _CALL), out=length)
    calls.libc("write", 2, text, At(length))
    calls.bind(said)
    calls.libc("snprintf", text, _TEXT_BYTES, seccomp.EPITAPH + b"%d", At(copy + _CALL))
    calls.libc("prctl", linux.PR_SET_NAME, text, 0, 0, 0)
    calls.bind(done)
    calls.libc("raise", seccomp.SIGSYS)  # pending until this returns, which is forbidden, too (rt_sigreturn)
    calls.libc("strlen", b"end", fails=ANY)

    begin = _map_readonly(calls)
    code = machine.handler_code(information, begin, result, runner.routine)
    linux.sigaction(seccomp.SIGSYS, machine.load(code), linux.SA_SIGINFO | linux.SA_RESETHAND)
    return True


def _map_readonly(calls: CallList) -> int:
    """Put a list into memory that can only be read: its address. Raises ``OSError``."""
    file = posix.memfd_create("calls", posix.MFD_CLOEXEC)
    try:
        size = len(calls.finish(0))
        posix.ftruncate(file, size)
        begin = linux.map_memory(size, linux.PROT_READ, file)
        posix.write(file, calls.finish(begin))
        return begin
    finally:
        posix.close(file)
