"""Errors of the operating system as errors of the domain: exhaustion apart from a request's own faults."""

from __future__ import annotations

import errno

from sandbox_api.errors import OutOfDescriptors, OutOfDisk, OutOfMemory, OutOfProcesses, SandboxerError

_SCARCE: dict[int | None, type[SandboxerError]] = {
    errno.EMFILE: OutOfDescriptors,
    errno.ENFILE: OutOfDescriptors,
    errno.ENOMEM: OutOfMemory,
    errno.ENOSPC: OutOfDisk,
    errno.EDQUOT: OutOfDisk,
    errno.EAGAIN: OutOfProcesses,
}


def lacking(error: OSError) -> int:
    """The errno where descriptors, memory, processes or room on the disk ran out, else 0."""
    return error.errno if error.errno in _SCARCE and error.errno else 0


def for_errno(error: OSError, otherwise: type[SandboxerError]) -> type[SandboxerError]:
    """A ``ResourceExhausted`` where descriptors, memory, processes or room on the disk ran out, else ``otherwise``."""
    return _SCARCE.get(error.errno, otherwise)
