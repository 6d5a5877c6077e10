"""The host's control groups: making a container's, and finding it again after a restart."""

from __future__ import annotations

import json

from sandbox_api.errors import FailedPrecondition, InvalidArgument

from ..host import errors
from .group import Cgroup
from .layout import Layout
from .parents import Parents, Place
from .path import GroupPath, parse_path
from .resources import Resources
from .tree import apply, persist


class Hierarchy:
    """All control groups of a host, of either version. For one thread."""

    __slots__ = ("_parents", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._parents = Parents(layout.trees)

    @property
    def version(self) -> int:
        """1 or 2."""
        return self.layout.version

    @property
    def controllers(self) -> frozenset[str]:
        """Controllers that this host has: what it can limit or count."""
        return self.layout.controllers

    def create(self, cgroups_path: str, resources: Resources) -> Cgroup:
        """Make the group of a new container at an OCI ``cgroupsPath``, with its limits; or find one to share.

        An empty group that exists already is replaced. A failure leaves nothing behind.
        Raises ``InvalidArgument`` or ``FailedPrecondition``.
        """
        path = parse_path(cgroups_path)
        self.layout.require(resources)
        try:
            return persist(lambda: self._create(path, resources))
        except OSError as error:
            raise errors.for_errno(error, FailedPrecondition)(
                f"control group {cgroups_path}: cannot be made: {error}"
            ) from error

    def _create(self, path: GroupPath, resources: Resources) -> Cgroup:
        own: set[str] = set()
        held: list[Place] = []
        try:
            leaves = self.layout.leaves(path, resources)
            for tree in self.layout.trees:
                if tree in leaves:
                    group, above = path, path[:-1]
                    made = self._parents.make_leaf(tree, path)
                    own.add(tree)
                else:
                    group = above = self.layout.shared(path)
                    made = self.layout.trees[tree].make(group)
                held += self._parents.hold(tree, above, made)
                if tree in own:
                    self.layout.deny_devices(tree, path)
                self.layout.prepare(tree, group, resources)
            apply(self.layout.settings(path, leaves, resources))
        except BaseException:
            for tree in own:
                self.layout.trees[tree].remove(path)
            self._parents.release(held)
            raise
        return Cgroup(self.layout, self._parents, path, leaves, held, self.layout.counts(leaves))

    def plan(self, cgroups_path: str, resources: Resources) -> str:
        """Predict ``Cgroup.state`` of the group that ``create`` makes.

        Recorded beforehand, it lets the next supervisor remove a group whose making was interrupted.
        Raises ``InvalidArgument`` or ``FailedPrecondition``.
        """
        path = parse_path(cgroups_path)
        self.layout.require(resources)
        try:
            leaves = self.layout.leaves(path, resources)
        except OSError as error:
            raise errors.for_errno(error, FailedPrecondition)(f"control group {cgroups_path}: {error}") from error
        held: list[Place] = []
        for tree, files in self.layout.trees.items():
            above = path[:-1] if tree in leaves else self.layout.shared(path)
            for depth in range(1, len(above) + 1):
                if self._parents.held(tree, above[:depth]) or not files.has(above[:depth]):
                    held.append((tree, above[:depth]))
        return Cgroup(self.layout, self._parents, path, leaves, held, self.layout.counts(leaves)).state

    def attach(self, state: str) -> Cgroup:
        """Find the group that had this ``Cgroup.state``, in a new process; it may have been removed.

        Raises ``InvalidArgument`` for what is no state, ``FailedPrecondition`` for one of another host's.
        """
        try:
            values = json.loads(state)
            version, own, counted = values["version"], frozenset(values["own"]), bool(values["counted"])
            path = parse_path(values["path"])
            shared = self.layout.shared(path)  # what is held is that group, or one above it
            held = [(tree, shared[:depth]) for tree, depth in values["held"] if depth > 0]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidArgument(f"not the state of a control group: {error!r}: {state!r}") from None
        if version != self.version or not {*own, *(tree for tree, _ in held)} <= self.layout.trees.keys():
            raise FailedPrecondition(
                f"control group {values['path']}: this host has other hierarchies than at its start"
            )
        self._parents.add(held)
        return Cgroup(self.layout, self._parents, path, own, held, counted)

    def thaw_owned(self) -> None:
        """Thaw every group that is marked as the owner's: in version 1, what is frozen does not take SIGKILL.

        Raises ``OSError``.
        """
        if self.layout.freezer is not None:
            for group in self.layout.trees[self.layout.freezer].owned():
                self.layout.freeze(group, False)

    def remove_owned(self) -> int:
        """Remove every group that is marked as the owner's; how many are still in use. Raises ``OSError``."""
        return sum(not files.remove(group) for files in self.layout.trees.values() for group in files.owned())
