"""Landlock (landlock(7)): a worker reaches the folders and files it was given, and nothing else of the machine.

Rules are made from descriptors, so no path is resolved. Descriptors opened before stay usable: streams need no rule.
The kernel denies each right that is handled and has no rule. An older kernel does not know all rights and leaves the
others open, which is why ``doctor`` and the log name the ABI.
"""

from __future__ import annotations

import struct

from .. import linux
from ..calls.call_list import NEGATIVE, At

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..calls.call_list import CallList

# System call numbers, the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

# linux/landlock.h. Never given to a guest: EXECUTE, MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, IOCTL_DEV.
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER = 1 << 13  # rename and link between folders; without it they fail with EXDEV
_TRUNCATE = 1 << 14
_READ = _READ_FILE | _READ_DIR
_CHANGE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE

_FILES_BY_ABI = (0, 0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)  # all rights there are; from ABI 5 on the last
_BIND_TCP, _CONNECT_TCP = 1, 2  # from ABI 4 on
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2  # from ABI 6 on


def abi() -> int:
    """The kernel's Landlock ABI; 0 where it has none, or was booted without it."""
    try:
        return linux.system_call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


class Landlock:
    """The rule sets of workers, by the kernel's ABI."""

    __slots__ = ("_alone", "_networked", "_readable", "_writable", "abi")

    def __init__(self) -> None:
        self.abi = abi()
        files = _FILES_BY_ABI[min(self.abi, len(_FILES_BY_ABI) - 1)]
        tcp = _BIND_TCP | _CONNECT_TCP if self.abi >= 4 else 0
        scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if self.abi >= 6 else 0
        # struct landlock_ruleset_attr. An older kernel takes the longer one while what it does not know is zero.
        self._alone = struct.pack("<QQQ", files, tcp, scoped)
        self._networked = struct.pack("<QQQ", files, 0, scoped)
        self._readable = _READ
        self._writable = _READ | _CHANGE & files

    def restrict(
        self, calls: CallList, folders: list[tuple[int, bool]], files: list[int], network: bool, stage: int = 0
    ) -> None:
        """Give up everything but reading ``files``, or those in a folder, and using ``folders``, for good.

        ``folders`` pairs the descriptor of each folder (``O_PATH`` will do) with whether it may only be
        read; where one lies below another, the rights of both hold in it. TCP is left alone with
        ``network``, and denied without. Needs no_new_privs. Does nothing where there is no Landlock.
        """
        if not self.abi:
            return
        handled = self._networked if network else self._alone
        ruleset = calls.slot()
        calls.libc("syscall", _CREATE_RULESET, handled, len(handled), 0, fails=NEGATIVE, stage=stage, out=ruleset)
        # struct landlock_path_beneath_attr is packed: rights, then the descriptor.
        for fd, readonly in folders:
            rule = struct.pack("<Qi", self._readable if readonly else self._writable, fd)
            calls.libc("syscall", _ADD_RULE, At(ruleset), _RULE_PATH_BENEATH, rule, 0, fails=NEGATIVE, stage=stage)
        for fd in files:
            # A memfd or the like is on no mount: Landlock takes no rule for it, and leaves it open (EBADFD).
            rule = struct.pack("<Qi", _READ_FILE, fd)
            calls.libc("syscall", _ADD_RULE, At(ruleset), _RULE_PATH_BENEATH, rule, 0)
        calls.libc("syscall", _RESTRICT_SELF, At(ruleset), 0, fails=NEGATIVE, stage=stage)
        calls.libc("close", At(ruleset))
