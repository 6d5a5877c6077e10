"""The directories and files of one mounted control group hierarchy, and nothing of what they mean."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sandbox_api.errors import FailedPrecondition, InvalidArgument, SandboxerError

from ..host import errors
from .path import GroupPath

log = logging.getLogger(__name__)

PROCS = "cgroup.procs"

T = TypeVar("T")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_VANISHED = (errno.ENOENT, errno.ENODEV)  # cgroup_mkdir() of kernel/cgroup/cgroup.c: the parent is being removed
_TRIES = 100  # to make a group whose empty parents another sandboxer removes

_OWNER = "trusted.wasm-sandboxer"


class Tree:
    """One mounted hierarchy. Methods raise ``OSError`` unless they say otherwise."""

    __slots__ = ("_owner", "root")

    def __init__(self, root: str, owner: str = "") -> None:
        """``owner`` is written on every group that is made, for ``owned``."""
        self.root = root
        self._owner = os.fsencode(owner)

    def path(self, group: GroupPath, file: str = "") -> str:
        """The path of a group's directory, or of a file in it."""
        return "/".join((self.root, *group, file) if file else (self.root, *group))

    def make(self, group: GroupPath) -> list[GroupPath]:
        """Make a group and the parents it lacks, level by level, and follow no link. Answers what was missing.

        Where it fails, what it made is gone again.
        """
        return persist(lambda: self._make(group))

    def _make(self, group: GroupPath) -> list[GroupPath]:
        made: list[GroupPath] = []
        fd = os.open(self.root, _FOLDER)
        try:
            for depth, name in enumerate(group, 1):
                try:
                    os.mkdir(name, 0o755, dir_fd=fd)
                    made.append(group[:depth])
                except FileExistsError:
                    pass
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
                if self._owner and group[:depth] in made:
                    self._mark(fd)
        except OSError:
            for each in reversed(made):
                self.remove(each)
            raise
        finally:
            os.close(fd)
        return made

    def owned(self) -> list[GroupPath]:
        """The groups that carry the owner's name, those below others first."""
        found = []
        for path, _, _ in os.walk(self.root, topdown=False):
            try:
                owner = os.getxattr(path, _OWNER, follow_symlinks=False)
            except OSError:  # it has none, or has just gone
                continue
            if owner == self._owner:
                found.append(tuple(os.path.relpath(path, self.root).split("/")))
        return found

    def _mark(self, fd: int) -> None:
        try:
            os.setxattr(fd, _OWNER, self._owner)
        except OSError as error:  # it only helps a sandboxer whose state is lost
            log.debug("control group not marked: %s", error)

    def remove(self, group: GroupPath) -> bool:
        """Remove a group, if it is there; false while processes or groups are in it."""
        try:
            os.rmdir(self.path(group))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise
        return True

    def has(self, group: GroupPath, file: str = "") -> bool:
        """Whether a group, or a file in it, is there."""
        return os.path.exists(self.path(group, file))

    def read(self, group: GroupPath, file: str) -> str:
        """The whole of a file."""
        with open(self.path(group, file), encoding="utf-8") as stream:
            return stream.read()

    def write(self, group: GroupPath, file: str, text: str) -> None:
        """Write a file with one write(2), which is how the kernel takes a setting."""
        fd = os.open(self.path(group, file), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def number(self, group: GroupPath, file: str, missing: int = 0) -> int:
        """The number in a file; ``missing`` where there is no such file, or ``max`` in it."""
        try:
            text = self.read(group, file).strip()
        except FileNotFoundError:
            return missing
        return missing if text == "max" else int(text)

    def table(self, group: GroupPath, file: str) -> dict[str, int]:
        """A file of lines with a key and a number; empty where there is no such file."""
        try:
            lines = self.read(group, file).splitlines()
        except FileNotFoundError:
            return {}
        return {key: int(number) for key, _, number in (line.partition(" ") for line in lines)}

    def pids(self, group: GroupPath) -> list[int]:
        """The processes in a group, but not in groups below it."""
        return [int(pid) for pid in self.read(group, PROCS).split()]

    def move(self, group: GroupPath, pids: Sequence[int]) -> None:
        """Move processes into a group; those that have ended meanwhile do not matter."""
        for pid in pids:
            try:
                self.write(group, PROCS, str(pid))
            except ProcessLookupError:
                pass


def persist(make: Callable[[], T]) -> T:
    """Make groups, and again if one above vanished meanwhile: another sandboxer removes parents that seem empty."""
    for _ in range(_TRIES - 1):
        try:
            return make()
        except OSError as error:
            if error.errno not in _VANISHED:
                raise
    return make()


@dataclass(frozen=True, slots=True)
class Setting:
    """A value to write into a group's file."""

    tree: Tree
    group: GroupPath
    file: str
    value: str


def apply(settings: Sequence[Setting]) -> None:
    """Write the settings in order; where the kernel refuses one, write back what was there before.

    Raises ``InvalidArgument`` or ``FailedPrecondition``, as the kernel says: the value is wrong, or refused now. Raises
    ``ResourceExhausted`` where there is no descriptor or memory to write it.
    """
    undo: list[Setting] = []
    for setting in settings:
        tree, group, file = setting.tree, setting.group, setting.file
        try:
            old = tree.read(group, file)
            tree.write(group, file, setting.value)
        except OSError as error:
            _write_back(undo)
            raise _refused(setting, error) from error
        undo.append(Setting(tree, group, file, old))


def _write_back(undo: list[Setting]) -> None:
    for setting in reversed(undo):
        try:
            setting.tree.write(setting.group, setting.file, setting.value)
        except OSError as error:
            path = setting.tree.path(setting.group, setting.file)
            log.warning("control group: cannot write %r back to %s: %s", setting.value.strip(), path, error)


def _refused(setting: Setting, error: OSError) -> SandboxerError:
    path = setting.tree.path(setting.group, setting.file)
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # others that we lack are the kernel's for settings
        return errors.for_errno(error, FailedPrecondition)(f"control group: {path}: {error.strerror}")
    kind = InvalidArgument if error.errno in (errno.EINVAL, errno.ERANGE) else FailedPrecondition
    return kind(f"control group: the kernel refuses {setting.value!r} for {path}: {error.strerror}")
