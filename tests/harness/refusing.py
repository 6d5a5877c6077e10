"""Runs a command in whose processes a system call fails with EPERM, as under a container's seccomp profile.

python -m tests.harness.refusing CALL COMMAND...
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

from supervisor.seccomp.library import ALLOW, ERRNO, FilterBuilder

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2  # prctl(2); needs CAP_SYS_ADMIN here


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def refuse(*calls: str) -> None:
    """Have these system calls fail in this process, and all that come of it. Raises ``OSError``."""
    with FilterBuilder(ALLOW, platform.machine()) as builder:
        for call in calls:
            builder.rule(ERRNO | errno.EPERM, call)
        code = builder.program()
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """Install the filter and become the command."""
    call, *command = sys.argv[1:]
    refuse(call)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
