"""The host's control groups: making a container's, and finding it again after a restart."""

from __future__ import annotations

import json
from collections import Counter

from sandbox_api.errors import FailedPrecondition, InvalidArgument

from ..host.errors import for_errno
from .group import Cgroup
from .layout import Layout
from .path import GroupPath, parse_path
from .resources import Resources
from .tree import apply

Place = tuple[str, GroupPath]
"""A group in a tree."""


class Hierarchy:
    """All control groups of a host, of either version. For one thread."""

    __slots__ = ("_holders", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # How many containers need each group that create() made above them: it goes with the last.
        self._holders: Counter[Place] = Counter()

    @property
    def version(self) -> int:
        """1 or 2."""
        return self.layout.version

    @property
    def controllers(self) -> frozenset[str]:
        """What this host can limit or count."""
        return self.layout.controllers

    def create(self, cgroups_path: str, resources: Resources) -> Cgroup:
        """Make the group of a new container at an OCI ``cgroupsPath``, with its limits; or find it one to share.

        An empty group that is there already is made anew. Where this fails, nothing that it made is left.
        Raises ``InvalidArgument`` or ``FailedPrecondition``.
        """
        path = parse_path(cgroups_path)
        self.layout.require(resources)
        own: set[str] = set()
        held: list[Place] = []
        try:
            leaves = self.layout.leaves(path, resources)
            for tree in self.layout.trees:
                if tree in leaves:
                    group, above = path, path[:-1]
                    made = self.make_leaf(tree, path)
                    own.add(tree)
                else:
                    group = above = self.layout.shared(path)
                    made = self.layout.trees[tree].make(group)
                held += self._hold(tree, above, made)
                self.layout.prepare(tree, group, resources)
            apply(self.layout.settings(path, leaves, resources))
        except BaseException as error:
            for tree in own:
                self.layout.trees[tree].remove(path)
            self.release(held)
            if isinstance(error, OSError):
                raise for_errno(error, FailedPrecondition)(
                    f"control group {cgroups_path}: cannot be made: {error}"
                ) from error
            raise
        return Cgroup(self, path, leaves, held, self.layout.counts(leaves))

    def plan(self, cgroups_path: str, resources: Resources) -> str:
        """What ``Cgroup.state`` of the group that ``create`` makes will say.

        Recorded beforehand, it lets whoever comes after a death in the middle remove what was made by then.
        Raises ``InvalidArgument`` or ``FailedPrecondition``.
        """
        path = parse_path(cgroups_path)
        self.layout.require(resources)
        leaves = self.layout.leaves(path, resources)
        held: list[Place] = []
        for tree, files in self.layout.trees.items():
            above = path[:-1] if tree in leaves else self.layout.shared(path)
            for depth in range(1, len(above) + 1):
                if self._holders[tree, above[:depth]] or not files.has(above[:depth]):
                    held.append((tree, above[:depth]))
        return Cgroup(self, path, leaves, held, self.layout.counts(leaves)).state

    def attach(self, state: str) -> Cgroup:
        """The group that had this ``Cgroup.state``, in a new process; it need not be there any more.

        Raises ``InvalidArgument`` for what is no state, ``FailedPrecondition`` for one of another host's.
        """
        try:
            values = json.loads(state)
            version, own, counted = values["version"], frozenset(values["own"]), bool(values["counted"])
            path = parse_path(values["path"])
            shared = self.layout.shared(path)  # what is held is that group, or one above it
            held = [(tree, shared[:depth]) for tree, depth in values["held"] if depth > 0]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(f"not the state of a control group: {error!r}: {state!r}") from None
        if version != self.version or not {*own, *(tree for tree, _ in held)} <= self.layout.trees.keys():
            raise FailedPrecondition(
                f"control group {values['path']}: this host has other hierarchies than at its start"
            )
        self._holders.update(held)
        return Cgroup(self, path, own, held, counted)

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

    def make_leaf(self, tree: str, path: GroupPath) -> list[GroupPath]:
        """Make a group that nothing is in; answers it and the parents that were missing.

        Raises ``OSError``, and ``FailedPrecondition`` where it is there and in use.
        """
        files = self.layout.trees[tree]
        made = files.make(path)
        if path in made:
            return made
        if not files.remove(path):
            raise FailedPrecondition(
                f"control group {files.path(path)}: processes or groups are in it: end them, or use another cgroupsPath"
            )
        return files.make(path)

    def release(self, held: list[Place]) -> None:
        """Let go of what ``create`` held; what nobody holds is removed, unless somebody else uses it."""
        for tree, group in reversed(held):
            self._holders[tree, group] -= 1
            if not self._holders[tree, group]:
                del self._holders[tree, group]
                self.layout.trees[tree].remove(group)

    def _hold(self, tree: str, group: GroupPath, made: list[GroupPath]) -> list[Place]:
        above = (group[:depth] for depth in range(1, len(group) + 1))
        held = [(tree, each) for each in above if each in made or self._holders[tree, each]]
        self._holders.update(held)
        return held
