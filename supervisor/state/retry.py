"""Changes that have to be recorded in the end: at once, or as soon as the disk has room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .store import StoreFailed

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


def until_recorded(change: Callable[[], None], failed: str) -> None:
    """Make a change; where it raises ``StoreFailed``, log ``failed`` and make it again in ``RETRY_SECONDS``."""
    try:
        change()
    except StoreFailed as error:
        log.error("%s: %s: trying again", failed, error)
        asyncio.get_running_loop().call_later(RETRY_SECONDS, until_recorded, change, failed)
