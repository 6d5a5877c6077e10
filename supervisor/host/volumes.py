"""Asking file systems whether they answer: an NFS or FUSE server may not, and nobody else is to wait for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from sandbox_api.errors import TooManyCalls, Unavailable

ANSWER_SECONDS = 10.0
MAX_UNANSWERED = 64
"""Questions without an answer at once: each holds a thread until the server is back or the file system unmounted."""


class Volumes:
    """Asks in threads, where the event loop may look only once there was an answer."""

    def __init__(self) -> None:
        self._asking = ThreadPoolExecutor(MAX_UNANSWERED, "volumes")
        self.unanswered = 0
        """Questions whose time was up."""

    async def answer(self, paths: Sequence[str]) -> None:
        """Return as soon as the file systems of all these have answered, be it that there is no such file.

        Raises ``Unavailable`` where one takes longer than ``ANSWER_SECONDS``, and ``TooManyCalls``.
        """
        if self.unanswered >= MAX_UNANSWERED:
            raise TooManyCalls(f"{self.unanswered} questions to file systems that do not answer are under way")
        answered: list[str] = []
        asked = asyncio.get_running_loop().run_in_executor(self._asking, _ask, paths, answered)
        done, _ = await asyncio.wait([asked], timeout=ANSWER_SECONDS)
        if not done and len(answered) < len(paths):
            self.unanswered += 1
            asked.add_done_callback(self._answered_late)
            raise Unavailable(
                f"{paths[len(answered)]}: its file system has not answered within {ANSWER_SECONDS:.0f} s: "
                "look at its server, or unmount it"
            )

    def _answered_late(self, _: object) -> None:
        self.unanswered -= 1


def _ask(paths: Sequence[str], answered: list[str]) -> None:
    for path in paths:
        with suppress(OSError, ValueError):  # what is wrong with it is said by who uses it
            os.stat(path)
        answered.append(path)
