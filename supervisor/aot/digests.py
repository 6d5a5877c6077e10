"""The digests of module files: each file is read once, and found again by its identity."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from concurrent.futures import Executor

from .identity import Identifier, Identity

REMEMBERED = 8192
MAX_MODULE = 256 << 20
"""A larger file is left to the interpreter."""
_AT_ONCE = 64 << 10
"""A file of up to this size is hashed sooner than a thread would begin to."""
_MAGIC = b"\0asm\1\0\0\0"
_CHUNK = 1 << 20


class Digests:
    """SHA-256 of opened files."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._identifier = Identifier()
        self._known: OrderedDict[Identity, str] = OrderedDict()
        self._hashing: dict[Identity, asyncio.Future[str | None]] = {}

    async def of(self, module: int) -> str | None:
        """The digest of an opened module, in hexadecimal; None where it is none. Raises ``OSError``."""
        identity = self._identifier.of(module)
        if identity is not None:
            digest = self._known.get(identity)
            if digest is not None:
                return digest
        if os.pread(module, len(_MAGIC), 0) != _MAGIC:
            return None
        size = os.fstat(module).st_size
        if size > MAX_MODULE:
            return None
        if identity is not None and not identity.settled():
            identity = None
        if size <= _AT_ONCE:
            digest = _hash(module)
        elif identity is None:
            digest = await self._hash(module)
        else:  # many may start one new module at once
            hashing = self._hashing.get(identity)
            if hashing is None:
                hashing = self._hashing[identity] = asyncio.ensure_future(self._hash(module))
                hashing.add_done_callback(lambda _, done=identity: self._hashing.pop(done, None))  # type: ignore[misc]
            digest = await asyncio.shield(hashing)
        if digest is not None and identity is not None and self._identifier.of(module) == identity:
            self._known[identity] = digest
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return digest

    async def _hash(self, module: int) -> str | None:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _hash_and_close, os.dup(module))


def _hash_and_close(module: int) -> str | None:
    try:
        return _hash(module)
    finally:
        os.close(module)


def _hash(module: int) -> str | None:
    digest = hashlib.sha256()
    at = 0
    while chunk := os.pread(module, _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
        if at > MAX_MODULE:  # it grows
            return None
    return digest.hexdigest()
