"""A target by its name, and what every run of any target is held to."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
EVERY_COMMIT = (
    *("ttrpc", "sandbox_api", "config", "sections", "archive"),
    *("helper_frames", "helper_messages", "state"),
)
"""CI runs these with each commit: ttrpc, both dialects, config.json, headers of modules, images' archives, the helpers'
protocol, the state file. The others have their turn."""

SECONDS, SECONDS_A_BYTE = 1.0, 1e-5
"""Processor time that a run may take: so much, and so much for each byte. The first run of a target takes 0.15 s, and
instrumented code three times as long as other; what grows with the square of its input's size shows all the same."""

Run = Callable[[bytes], None]
Mutate = Callable[[bytes, int, int], bytes]


class Broken(AssertionError):
    """A run did what no run may do, whatever its target."""


class Target:
    """A target: a module of ``tests.fuzz.targets``, or any other that has a ``run``."""

    def __init__(self, name: str) -> None:
        self.name = name.rpartition(".")[2]
        module = importlib.import_module(name if "." in name else f"tests.fuzz.targets.{name}")
        self._run: Run = module.run
        self.words: tuple[bytes, ...] = getattr(module, "WORDS", ())
        self.most: int = getattr(module, "MOST", 4096)
        self.mutate: Mutate | None = getattr(module, "mutate", None)

    def run(self, data: bytes) -> None:
        """Run it once. Raises what the target raises, and ``Broken`` for time and descriptors."""
        lowest = _lowest_free()
        began = time.thread_time()
        self._run(data)
        took = time.thread_time() - began
        if took > SECONDS + SECONDS_A_BYTE * len(data):
            raise Broken(f"{len(data)} bytes took {took:.2f} s of processor time")
        if _lowest_free() != lowest:
            raise Broken("a descriptor was left open, or one was closed that is another's")


def names() -> list[str]:
    """Every target's name."""
    return sorted(path.stem for path in (HERE / "targets").glob("*.py") if path.stem != "__init__")


def of_turn(chosen: list[str], count: int, commits: int) -> list[str]:
    """Those of every commit, and so many of the others, which the number of commits chooses."""
    always = [name for name in chosen if name in EVERY_COMMIT]
    others = [name for name in chosen if name not in EVERY_COMMIT]
    return always + [others[(commits * count + i) % len(others)] for i in range(min(count, len(others)))]


def corpus(name: str) -> list[Path]:
    """The inputs of a target that are in the tree."""
    return sorted((CORPUS / name).iterdir())


def _lowest_free() -> int:
    """The lowest free descriptor, which the next one gets (open(2)): one that leaks takes it."""
    fd = os.dup(2)
    os.close(fd)
    return fd
