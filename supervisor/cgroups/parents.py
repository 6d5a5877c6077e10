"""Groups above containers' own: made with the first container that needs one, removed with the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from sandbox_api.errors import FailedPrecondition

from .path import GroupPath
from .tree import Tree

Place = tuple[str, GroupPath]
"""A group in a tree."""


class Parents:
    """Counts how many containers need each group that was made above them."""

    __slots__ = ("_holders", "_trees")

    def __init__(self, trees: Mapping[str, Tree]) -> None:
        self._trees = trees
        self._holders: Counter[Place] = Counter()

    def make_leaf(self, tree: str, path: GroupPath) -> list[GroupPath]:
        """Make a group that nothing is in; answers it and the parents that were missing.

        Raises ``OSError``, and ``FailedPrecondition`` where it is there and in use.
        """
        files = self._trees[tree]
        made = files.make(path)
        if path in made:
            return made
        if not files.remove(path):
            raise FailedPrecondition(
                f"control group {files.path(path)}: processes or groups are in it: end them, or use another cgroupsPath"
            )
        return files.make(path)

    def held(self, tree: str, group: GroupPath) -> bool:
        """Whether a container needs this group."""
        return bool(self._holders[tree, group])

    def add(self, held: Iterable[Place]) -> None:
        """Count a container more that holds these."""
        self._holders.update(held)

    def hold(self, tree: str, group: GroupPath, made: list[GroupPath]) -> list[Place]:
        """Hold those groups on the way to ``group`` that are ours: just ``made``, or held by others."""
        above = (group[:depth] for depth in range(1, len(group) + 1))
        held = [(tree, each) for each in above if each in made or self._holders[tree, each]]
        self.add(held)
        return held

    def release(self, held: list[Place]) -> None:
        """Give up what ``hold`` answered; remove what no container needs, unless others use it."""
        for tree, group in reversed(held):
            self._holders[tree, group] -= 1
            if not self._holders[tree, group]:
                del self._holders[tree, group]
                self._trees[tree].remove(group)
