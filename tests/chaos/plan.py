"""What a seed stands for: the node's strikes, and each client's steps, all drawn before the first, so that no outcome
changes what comes next. ``python -m tests.chaos.plan --seed 1`` prints them.
"""

from __future__ import annotations

import argparse
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
    "frame": 4,
}
"""Strikes, and how often each comes."""
LONGEST_PAUSE = 1.0
ACTS = {
    "node": {"new_pod": 3, "go_on": 7},
    "pod": {"shut_down": 2, "stop_pod": 1, "create": 22, "go_on": 75},
    "prepared": {"purge": 1, "go_on": 9},
    "created": {"start": 3, "kill": 1},
    "paused": {"resume": 2, "kill": 1},
    "stopped": {"wait": 1, "delete": 1},
    "stopped and prepared": {"wait": 10, "purge": 3, "delete": 7},
    "running": {"pause": 15, "exec": 20, "kill": 15, "begin_to_wait": 10, "limit": 5, "resize": 10, "its_execs": 25},
}
"""A client's acts on what it finds in these states, and how often it chooses each."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One thing that happens to the node."""

    kind: str
    pause: float
    """Seconds before it."""
    seed: str
    """Of all that is drawn for it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a client does next, in whatever state it finds what it has."""

    number: int
    acts: dict[str, str]
    """What it would do, by state."""
    pod: float
    """Which of its pods, as a part of their row; so with that one's containers, and with the container's execs."""
    container: float
    exec: float
    seed: str
    """Of all that is drawn for its act: what a new container is, say."""


def strikes(seed: int) -> Iterator[Strike]:
    """All strikes of a seed, without end."""
    drawn = random.Random(f"{seed} strikes")
    number = 0
    while True:
        kind = drawn.choices(list(KINDS), list(KINDS.values()))[0]
        yield Strike(kind, drawn.uniform(0.05, LONGEST_PAUSE), f"{seed} {kind} {number}")
        number += 1


def steps(seed: int, client: int) -> Iterator[Step]:
    """All steps of a client, without end."""
    drawn = random.Random(f"{seed} client {client}")
    number = 0
    while True:
        acts = {state: drawn.choices(list(each), list(each.values()))[0] for state, each in ACTS.items()}
        yield Step(number, acts, drawn.random(), drawn.random(), drawn.random(), f"{seed} {client} {number}")
        number += 1


def name(seed: int) -> str:
    """A name for the strikes of a seed: the same for the same ones."""
    return _digest(islice(strikes(seed), 1000))


def name_of_plans(seed: int, clients: int) -> str:
    """A name for what these clients plan: the same for the same steps."""
    return _digest(step for client in range(clients) for step in islice(steps(seed, client), 1000))


def _digest(planned: Iterator[Strike] | Iterator[Step]) -> str:
    return hashlib.sha256("\n".join(map(repr, planned)).encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a seed stands for, and its names.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--count", type=int, default=100, help="how many strikes, and steps of each client, to print")
    options = parser.parse_args()
    print(*islice(strikes(options.seed), options.count), sep="\n")
    for client in range(options.clients):
        for step in islice(steps(options.seed, client), options.count):
            print(f"client {client}: {step}")
    print(f"strikes {name(options.seed)}, plans {name_of_plans(options.seed, options.clients)}")


if __name__ == "__main__":
    main()
