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
"""A larger file is not compiled."""
_AT_ONCE = 64 << 10
"""A file of up to this size is hashed sooner than a thread would begin to."""
_MAGICS = (b"\0asm\1\0\0\0", b"\0asm\x0d\0\1\0")  # of modules and of components
_CHUNK = 1 << 20


class Digests:
    """SHA-256 of opened files."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._identifier = Identifier()
        self._known: OrderedDict[Identity, str] = OrderedDict()
        self._hashing: dict[Identity, asyncio.Future[str | None]] = {}

    def known(self, module: int) -> str | None:
        """The digest of an opened module that was read before and is unchanged."""
        identity = self._identifier.of(module)
        return self._known.get(identity) if identity else None

    async def of(self, module: int) -> str | None:
        """The digest of an opened module, in hexadecimal; None where it is none. Raises ``OSError``.

        Where this is cancelled, a large file is hashed to its end all the same, and known then.
        """
        identity = self._identifier.of(module)
        if identity is not None:
            digest = self._known.get(identity)
            if digest is not None:
                return digest
        if os.pread(module, len(_MAGICS[0]), 0) not in _MAGICS:
            return None
        size = os.fstat(module).st_size
        if size > MAX_MODULE:
            return None
        if identity is not None and not identity.settled():
            identity = None
        if size <= _AT_ONCE:
            return self._remember(identity, module, _hash(module))
        hashing = self._hashing.get(identity) if identity else None  # many may start one new module at once
        if hashing is None:
            hashing = asyncio.ensure_future(self._hash_later(identity, os.dup(module)))
            hashing.add_done_callback(lambda done: done.cancelled() or done.exception())  # its waiter may be gone
            if identity is not None:
                self._hashing[identity] = hashing
        return await asyncio.shield(hashing)

    async def _hash_later(self, identity: Identity | None, module: int) -> str | None:
        """Hash in a thread; the descriptor is closed."""
        try:
            digest = await asyncio.get_running_loop().run_in_executor(self._threads, _hash, module)
            return self._remember(identity, module, digest)
        finally:
            if identity is not None:
                self._hashing.pop(identity, None)
            os.close(module)

    def _remember(self, identity: Identity | None, module: int, digest: str | None) -> str | None:
        if digest is not None and identity is not None and self._identifier.of(module) == identity:
            self._known[identity] = digest
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return digest


def _hash(module: int) -> str | None:
    digest = hashlib.sha256()
    at = 0
    while chunk := os.pread(module, _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
        if at > MAX_MODULE:  # it grows
            return None
    return digest.hexdigest()
