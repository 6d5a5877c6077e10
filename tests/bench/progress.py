"""Progress on stderr: one line that changes on a terminal, else a line for each part."""

from __future__ import annotations

import sys
import time


class Progress:
    """Tells of a run's parts and steps."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._part = ""
        self._said = ""

    def part(self, text: str) -> None:
        """Something new begins."""
        self._part = text
        if self._terminal:
            self._show(text)
        else:
            print(f"bench {time.monotonic() - self._begun:4.0f} s: {text}", file=sys.stderr, flush=True)

    def step(self, done: int, of: int) -> None:
        """So far has the part come."""
        if self._terminal:
            self._show(f"{self._part}: {done:,} of {of:,}")

    def clear(self) -> None:
        """Leave the terminal's line empty for other output."""
        if self._terminal and self._said:
            print(f"\r{'':{len(self._said)}}\r", end="", file=sys.stderr, flush=True)
            self._said = ""

    def _show(self, text: str) -> None:
        print(f"\r{text:{len(self._said)}}", end="", file=sys.stderr, flush=True)
        self._said = text
