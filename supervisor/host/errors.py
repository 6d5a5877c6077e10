"""Errors of the operating system as errors of the domain: exhaustion apart from a request's own faults."""

from __future__ import annotations

import errno

from sandbox_api.errors import ResourceExhausted, SandboxerError

_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN})


def for_errno(error: OSError, otherwise: type[SandboxerError]) -> type[SandboxerError]:
    """``ResourceExhausted`` where descriptors, memory, processes or room on the disk ran out, else ``otherwise``."""
    return ResourceExhausted if error.errno in _SCARCE else otherwise
