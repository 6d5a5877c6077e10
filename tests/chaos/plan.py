"""The strikes that a seed stands for: drawn before the first, so that no outcome changes what comes next."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

KINDS = {
    "supervisor": 4,
    "switch": 5,
    "forkserver": 3,
    "relay": 2,
    "both": 1,
    "while_it_starts": 1,
    "suspend": 4,
    "full_disk": 2,
    "no_memory": 2,
    "clock": 2,
    "intrude": 3,
}
"""Strikes, and how often each comes."""
LONGEST_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Strike:
    """One of them."""

    kind: str
    pause: float
    """Seconds before it."""
    seed: str
    """Of all that is drawn for it."""


def strikes(seed: int) -> Iterator[Strike]:
    """All of a seed, without end."""
    drawn = random.Random(f"{seed} strikes")
    number = 0
    while True:
        kind = drawn.choices(list(KINDS), list(KINDS.values()))[0]
        yield Strike(kind, drawn.uniform(0.05, LONGEST_PAUSE), f"{seed} {kind} {number}")
        number += 1


def name(seed: int) -> str:
    """A name for the run of a seed: the same for the same strikes."""
    return hashlib.sha256(repr(list(islice(strikes(seed), 1000))).encode()).hexdigest()[:12]
