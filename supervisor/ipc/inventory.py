"""A forkserver's inventory: the instances that it has, and how others ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.image_protocol import ImageReport


@dataclass(frozen=True, slots=True)
class Ended:
    """An exit as the forkserver, or the kernel, tells it. ``status`` is waitpid(2)'s, ``at`` in nanoseconds."""

    instance: int
    pid: int
    status: int
    at: int
    call: int = -1
    """Number of the forbidden system call it died of; -1 where there was none, or it is not known."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """State of a forkserver when it was joined: instances with their pids, and exits that were not acknowledged."""

    engines: dict[str, str]
    landlock: int
    """ABI of the kernel's Landlock; 0 is none."""
    no_empty_root: int
    """The errno by which workers were refused an empty root; 0 where they have one."""
    running: dict[int, int]
    ended: list[Ended]
    images: list[ImageReport]


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that runs its guest."""

    pid: int
    imaged: bool
    """Its module was mapped from an image."""


def exits_of(numbers: Sequence[int]) -> list[Ended]:
    """The exits in a message, five numbers each."""
    return [Ended(*numbers[i : i + 5]) for i in range(0, len(numbers), 5)]
