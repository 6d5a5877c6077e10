"""The interface that both versions of control groups implement for ``Hierarchy`` and ``Cgroup``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from sandbox_api.errors import FailedPrecondition
from sandbox_api.interface import Usage

from .path import GroupPath
from .resources import Resources
from .tree import Setting, Tree


class Layout(ABC):
    """One version of the interface on one host. ``group`` is always a container's own group.

    Methods raise ``OSError`` where files cannot be read or written, and ``FailedPrecondition`` where it says so.
    """

    version: int
    trees: Mapping[str, Tree]
    """The hierarchies to put a process into, by name: one in version 2."""
    controllers: frozenset[str]
    """Controllers that this host has: what it can limit or count."""
    memory: str | None
    """The tree that counts memory, where there is one."""
    freezer: str | None
    """The tree in which processes are frozen, where there is one."""
    remedy: str
    """The remedy for a missing controller, for error messages."""

    def require(self, resources: Resources) -> None:
        """Raises ``FailedPrecondition`` where the host cannot enforce a limit."""
        for controller, member in resources.needs.items():
            if controller not in self.controllers:
                raise FailedPrecondition(
                    f"linux.resources: {member} needs the {controller} controller, which is not here: {self.remedy}"
                )

    @abstractmethod
    def shared(self, group: GroupPath) -> GroupPath:
        """The group of containers without limits."""

    @abstractmethod
    def leaves(self, group: GroupPath, resources: Resources) -> frozenset[str]:
        """In which trees a new container gets a group of its own; empty where it costs none."""

    @abstractmethod
    def homes(self, resources: Resources) -> frozenset[str]:
        """In which trees these limits need a group of its own."""

    @abstractmethod
    def prepare(self, tree: str, group: GroupPath, resources: Resources) -> None:
        """Make an existing group, own or shared, ready for these limits and for processes."""

    @abstractmethod
    def deny_devices(self, tree: str, group: GroupPath) -> None:
        """Let processes of a new own group neither open nor make any device, as far as this tree decides on that."""

    @abstractmethod
    def settings(self, group: GroupPath, own: frozenset[str], resources: Resources) -> list[Setting]:
        """The settings to write, in the order that the kernel takes. ``own``: the trees that have the group."""

    @abstractmethod
    def counts(self, own: frozenset[str]) -> bool:
        """Whether groups in these trees, from the container's start on, suffice for ``usage``."""

    @abstractmethod
    def usage(self, group: GroupPath, at_ns: int) -> Usage | None:
        """Read the group's usage; None where the kernel does not count its memory, or the group is gone."""

    @abstractmethod
    def memory_limit(self, group: GroupPath) -> int:
        """Read the group's own limit in bytes; 0 is none."""

    @abstractmethod
    def oom_kills(self, group: GroupPath) -> int:
        """Processes of the group that the kernel killed for want of memory."""

    @abstractmethod
    def freeze(self, group: GroupPath, freeze: bool) -> None:
        """Begin to freeze or to thaw."""

    @abstractmethod
    def frozen(self, group: GroupPath) -> bool:
        """Whether all processes stand still."""
