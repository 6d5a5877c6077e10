"""Images of loaded modules, which the forkserver has: asked for at Create, and told of in the log and to people."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from sandbox_api.errors import Unavailable
from workers.image_protocol import DROPPED, MADE, ImageReport, ImageRequest

from ..aot.choice import EngineChoice
from ..aot.terms import EngineMode
from ..host.counters import Counters
from ..ipc.forkserver import ForkserverClient

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Images asked for."""
TOLD = 256
"""Modules without an image that are told of."""

_Asked = tuple[str, str, int]


class ModuleImages:
    """Reports of the forkserver on images."""

    def __init__(self, limit: int, client: ForkserverClient, aot: EngineChoice, counters: Counters) -> None:
        """``limit`` is how many bytes they may take; 0 makes none."""
        self._limit = limit
        self._client = client
        self._aot = aot
        self._counters = counters
        self._made: dict[int, ImageReport] = {}  # by serial
        self._unfit: OrderedDict[bytes, ImageReport] = OrderedDict()  # by digest
        self._asked: OrderedDict[_Asked, None] = OrderedDict()
        self._asking: set[asyncio.Task[None]] = set()
        client.on_image = self._told

    def joined(self, reports: Sequence[ImageReport]) -> None:
        """Begin again with what a forkserver has."""
        self._asked.clear()
        self._made = {each.serial: each for each in reports if each.state == MADE}
        self._unfit = OrderedDict((each.digest, each) for each in reports if each.state != MADE)

    def foresee(self, module: int, asked: EngineMode, function: str, max_pages: int) -> None:
        """Have an image made of an opened module that is compiled already. The descriptor stays the caller's."""
        if not self._limit or not self._aot.foreseen(asked):
            return
        digest = self._aot.known(module)
        if digest is not None and (digest, function, max_pages) in self._asked:
            return
        task = asyncio.ensure_future(self._ask(os.dup(module), function, max_pages))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    def row(self) -> dict[str, Any]:
        """All that is known, for people."""
        return {
            "memory_limit": self._limit,
            "memory": self.totals()[1],
            "starts": self._counters.image_starts,
            "modules": [
                {"digest": each.digest.decode(), "bytes": each.bytes, "mappings": each.mappings}
                for each in self._made.values()
            ],
            "unfit": [{"digest": each.digest.decode(), "reason": each.reason} for each in self._unfit.values()],
        }

    def totals(self) -> tuple[int, int]:
        """How many there are, and their bytes."""
        return len(self._made), sum(each.bytes for each in self._made.values())

    async def _ask(self, module: int, function: str, max_pages: int) -> None:
        try:
            product = await self._aot.ready(module)
        except OSError as error:  # Start will say so
            log.debug("no image of a module: %s", error)
            return
        finally:
            os.close(module)
        if product is None:  # not compiled yet: to be asked for at a later Create
            return
        key = (product.digest, function, max_pages)
        request = ImageRequest(product.digest.encode(), product.engine, function.encode(), max_pages)
        try:
            if product.imageable and key not in self._asked:
                self._client.prepare(request, product.fd)
            self._asked[key] = None
            if len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
        except Unavailable:
            pass
        finally:
            os.close(product.fd)

    def _told(self, report: ImageReport) -> None:
        self._counters.images[report.state.decode()] += 1
        digest = report.digest.decode()
        if report.state == MADE:
            self._made[report.serial] = report
            self._unfit.pop(report.digest, None)
            log.info(
                "module %.12s starts from an image: %d KiB in %d mappings, made in %.1f ms",
                digest,
                report.bytes >> 10,
                report.mappings,
                report.microseconds / 1000,
            )
            return
        if report.state == DROPPED:
            self._made.pop(report.serial, None)
            for key in [key for key in self._asked if key[0] == digest]:
                del self._asked[key]
        else:
            self._unfit[report.digest] = report
            if len(self._unfit) > TOLD:
                self._unfit.popitem(last=False)
        what = "has its image no more" if report.state == DROPPED else "has no image"
        log.info("module %.12s %s: %s", digest, what, report.reason)
