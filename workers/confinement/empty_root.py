"""An empty root directory for all workers: a mount namespace with nothing of the host in it, made once.

Landlock and seccomp let metadata pass: stat(2), readlink(2), utimensat(2) by a host's path. So workers have no such
path. Their root is an empty, read-only tmpfs; the descriptors that they hold are the only way to other file systems.
Loading a module takes /proc/self/fd: that is the current directory, a proc that shows a process nothing but itself
(proc(5), hidepid and subset: options of each instance since Linux 5.8). It is mounted nowhere any more, and a worker
that leaves it by chdir("/") has no way back.

A worker with a network whose pod has names gets a root with these files alone: see ``change_root``.
"""

from __future__ import annotations

import posix
import sys

from ..calls.call_list import NEGATIVE, At, CallList, Runner

PROC = b"/proc"
_CLONE_NEWNS = 0x20000  # unshare(2)
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(posix.uname().machine, -1)  # system call number
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _REC, _PRIVATE = 0x1, 0x2, 0x4, 0x8, 0x20, 0x4000, 0x40000  # mount(2)
_MNT_DETACH = 2  # umount(2)


def enter(keep_proc: bool) -> None:
    """Move this process into the empty root, with proc as its current directory.

    With ``keep_proc`` it is /proc, too, for an engine that takes no relative paths. Needs CAP_SYS_ADMIN. Raises
    ``OSError``; the process is then of no use any more.
    """
    limits = _NOSUID | _NODEV | _NOEXEC
    calls = CallList()
    for name, *arguments in (
        ("unshare", _CLONE_NEWNS),
        ("mount", None, b"/", None, _REC | _PRIVATE, None),  # else the host would lose what is unmounted here
        ("mount", b"wasm-sandboxer", PROC, b"tmpfs", limits, b"size=4k,nr_inodes=4,mode=0555"),
        ("chdir", PROC),
        ("mkdir", b"proc", 0o555),
        ("mount", b"proc", b"proc", b"proc", limits, b"hidepid=ptraceable,subset=pid"),
        ("syscall", _PIVOT_ROOT, b".", b"."),  # puts the old root on top of the new one (pivot_root(2))
        ("umount2", b".", _MNT_DETACH),
        ("chdir", PROC),
        *(() if keep_proc else (("umount2", PROC, _MNT_DETACH), ("rmdir", PROC))),
        ("mount", None, b"/", None, _REMOUNT | _RDONLY | limits, None),
    ):
        calls.libc(name, *arguments, fails=NEGATIVE)
    Runner(native=False).perform(calls)


def change_root(calls: CallList, root: int, stage: int) -> None:
    """Have the folder ``root`` as the root in place of the empty one (chroot(2)); the current directory stays.

    The C library's resolver opens its files by their absolute paths. Needs CAP_SYS_CHROOT.
    """
    proc, flags = calls.slot(), posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
    calls.libc("open", b".", flags, out=proc, fails=NEGATIVE, stage=stage)
    calls.libc("fchdir", root, fails=NEGATIVE, stage=stage)
    calls.libc("chroot", b".", fails=NEGATIVE, stage=stage)
    calls.libc("fchdir", At(proc), fails=NEGATIVE, stage=stage)
    calls.libc("close", At(proc))


def leave_proc(calls: CallList, stage: int) -> None:
    """Go from proc to the root."""
    calls.libc("chdir", b"/", fails=NEGATIVE, stage=stage)


def main() -> None:
    """Tell whether there can be an empty root, for ``doctor``; end with 1 where not."""
    try:
        enter(keep_proc=False)
        print("in a mount namespace")
    except OSError as error:
        print(error.strerror)
        sys.exit(1)
