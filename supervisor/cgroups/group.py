"""The control group of one container."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sandbox_api.errors import FailedPrecondition
from sandbox_api.interface import Usage

from ..host import errors
from .layout import Layout
from .parents import Parents, Place
from .path import GroupPath
from .resources import Resources
from .tree import PROCS, apply, persist


class Cgroup:
    """The control group that counts and limits a container's processes: its own, or one that it shares.

    ``Hierarchy`` makes and reattaches these. Every call is a few short reads and writes, in the caller's thread;
    one thread for all of a hierarchy. Methods raise ``FailedPrecondition`` where the kernel refuses.
    """

    __slots__ = ("_counted", "_held", "_layout", "_own", "_parents", "_path")

    def __init__(
        self,
        layout: Layout,
        parents: Parents,
        path: GroupPath,
        own: frozenset[str],
        held: list[Place],
        counted: bool,
    ) -> None:
        self._layout = layout
        self._parents = parents
        self._path = path
        self._own = own  # trees in which it has a group of its own
        self._held = held  # groups above, removed with the last container that holds them
        self._counted = counted

    @property
    def state(self) -> str:
        """The state that ``Hierarchy.attach`` finds it by. Changes with ``update``, ``ensure_own`` and ``delete``."""
        return self._state(self._own)

    def plan_own(self) -> str:
        """Predict ``state`` after ``ensure_own``: to be recorded before it, for ``repair``."""
        return self._state(self._own | {self._freezer()})

    def plan_update(self, resources: Resources) -> str:
        """Predict ``state`` after ``update``: to be recorded before it, for ``repair``."""
        return self._state(self._own | self._layout.homes(resources))

    def _state(self, own: frozenset[str]) -> str:
        return json.dumps(
            {
                "version": self._layout.version,
                "path": "/" + "/".join(self._path),
                "own": sorted(own),
                "held": [[tree, len(group)] for tree, group in self._held],
                "counted": self._counted,
            }
        )

    @property
    def own(self) -> bool:
        """Whether it has a group that no other container is in (in some hierarchy, with version 1)."""
        return bool(self._own)

    @property
    def exists(self) -> bool:
        """Whether all its groups, own and shared, are there."""
        return all(self._layout.trees[tree].has(group) for tree, group in self._places())

    def entrances(self) -> list[str]:
        """The files that each new process of the container, of one thread still, has to write 0 into.

        In version 1 that is ``tasks``: ``cgroup.procs`` waits for a lock over all threads, 13 ms as measured.
        """
        name = "tasks" if self._layout.version == 1 else PROCS
        return [self._layout.trees[tree].path(group, name) for tree, group in self._places()]

    def open_entrances(self) -> tuple[list[int], bool]:
        """Descriptors of ``entrances``; and whether ``state`` has changed.

        Another sandboxer may have removed a shared group while nobody was in it: that is made again.
        """
        held = len(self._held)
        with self._explained("entered"):
            return persist(self._open_entrances), len(self._held) != held

    def _open_entrances(self) -> list[int]:
        opened: list[int] = []
        try:
            for path in self.entrances():
                opened.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for fd in opened:
                os.close(fd)
            for tree, group in self._places():
                if tree not in self._own and not self._layout.trees[tree].has(group):
                    made = self._layout.trees[tree].make(group)
                    self._held += self._parents.hold(tree, group, made)
                    self._layout.prepare(tree, group, Resources())
            raise
        return opened

    def pids(self) -> list[int] | None:
        """Its processes; None where it has no group of its own to tell them by."""
        for tree in self._own:
            with self._explained("read"):
                return self._layout.trees[tree].pids(self._path)
        return None

    def repair(self, pids: Sequence[int], paused: bool) -> bool:
        """Settle a group whose change was interrupted: keep the groups it has, and move its processes into them.

        It is thawed unless ``paused``. Answers whether its processes stand still.
        """
        with self._explained("repaired"):
            self._own = frozenset(tree for tree in self._own if self._layout.trees[tree].has(self._path))
            if self._layout.freezer in self._own and not (paused and self._layout.frozen(self._path)):
                self._layout.freeze(self._path, False)
                paused = False
            for tree in self._own:
                self._layout.trees[tree].move(self._path, pids)
        return paused and self._layout.freezer in self._own

    def update(self, resources: Resources, pids: Sequence[int]) -> None:
        """Change the limits of a running container: all of them, or none.

        ``pids`` are its processes, which are moved where a new limit needs a group that it does not have; memory
        that they have by then stays counted where it was (memory.rst, "Move charges").
        Raises ``InvalidArgument`` too, where the kernel takes a value for wrong.
        """
        self._layout.require(resources)
        with self._explained("updated"):
            before = self._own
            self._grow(self._layout.homes(resources), pids, resources)
            try:
                for tree in before:
                    self._layout.prepare(tree, self._path, resources)
                apply(self._layout.settings(self._path, self._own, resources))
            except BaseException:
                self._shrink(before)
                raise

    def ensure_own(self, pids: Sequence[int]) -> None:
        """Give it a group in which it can be frozen, and move its processes there. No process may be starting."""
        with self._explained("made"):
            self._grow(frozenset({self._freezer()}), pids, Resources())

    def freeze(self) -> None:
        """Begin to stop all its processes; ``frozen`` tells when they stand still.

        In version 1 a frozen process does not even take SIGKILL before it is thawed.
        Raises ``FailedPrecondition`` where it has no group of its own: ``ensure_own`` makes one.
        """
        self._switch(True)

    def thaw(self) -> None:
        """Resume its processes."""
        self._switch(False)

    @property
    def frozen(self) -> bool:
        """Whether all its processes stand still."""
        if self._layout.freezer not in self._own:
            return False
        with self._explained("read"):
            return self._layout.frozen(self._path)

    async def wait_frozen(self, frozen: bool, seconds: float) -> bool:
        """Poll until ``frozen`` is as asked; false where ``seconds`` were not enough."""
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while self.frozen != frozen:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        return True

    def usage(self, at_ns: int) -> Usage | None:
        """Read its usage; None where no group has counted it from its start: then sum its processes (``usage``)."""
        if not self._counted:
            return None
        with self._explained("read"):
            return self._layout.usage(self._path, at_ns)

    def memory_limit(self) -> int:
        """Bytes that its processes may take together; 0 where nothing bounds this group."""
        if self._layout.memory not in self._own:
            return 0
        with self._explained("read"):
            return self._layout.memory_limit(self._path)

    def oom_kills(self) -> int:
        """Count its processes that the kernel killed for memory; 0 where no group of its own counts them."""
        if self._layout.memory not in self._own:
            return 0
        with self._explained("read"):
            return self._layout.oom_kills(self._path)

    def delete(self) -> bool:
        """Remove what was made for it, and parents that ``create`` made and no other container holds.

        False while processes are still in it: try again when they have ended. Idempotent.
        """
        with self._explained("removed"):
            if not all([self._layout.trees[tree].remove(self._path) for tree in self._own]):
                return False
            self._parents.release(self._held)
            self._held = []
        return True

    def _places(self) -> Iterator[Place]:
        for tree in self._layout.trees:
            yield tree, self._path if tree in self._own else self._layout.shared(self._path)

    def _grow(self, trees: frozenset[str], pids: Sequence[int], resources: Resources) -> None:
        """Make own groups in ``trees`` and move the processes into them."""
        before, known = self._own, self.pids()
        try:
            for tree in trees - before:
                self._parents.make_leaf(tree, self._path)
                self._own |= {tree}
                self._layout.deny_devices(tree, self._path)
                self._layout.prepare(tree, self._path, resources)
                self._layout.trees[tree].move(self._path, pids if known is None else known)
        except BaseException:
            self._shrink(before)
            raise

    def _shrink(self, own: frozenset[str]) -> None:
        """Undo ``_grow``."""
        for tree in self._own - own:
            files = self._layout.trees[tree]
            files.move(self._layout.shared(self._path), files.pids(self._path))
            files.remove(self._path)
        self._own = own

    def _switch(self, freeze: bool) -> None:
        if self._freezer() not in self._own:
            raise FailedPrecondition(f"{self}: shared with other containers, which would be frozen with it")
        with self._explained("frozen" if freeze else "thawed"):
            self._layout.freeze(self._path, freeze)

    def _freezer(self) -> str:
        if self._layout.freezer is None:
            raise FailedPrecondition(f"{self}: this host has no freezer controller: {self._layout.remedy}")
        return self._layout.freezer

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.for_errno(error, FailedPrecondition)(f"{self}: cannot be {verb}: {error}") from error

    def __str__(self) -> str:
        return f"control group /{'/'.join(self._path)}"
