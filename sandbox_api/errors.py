"""Errors of requests, in the domain's terms. ``status`` maps them to status codes."""

from __future__ import annotations


class SandboxerError(Exception):
    """A failed request. The text names the id, the cause and, where there is one, the remedy."""


class InvalidArgument(SandboxerError):
    """The request, or a file it names, is malformed, in any state."""


class NotFound(SandboxerError):
    """No sandbox, container or process of this id; or it has ended, and the call wants it alive."""


class AlreadyExists(SandboxerError):
    """The id is taken."""


class FailedPrecondition(SandboxerError):
    """The state does not allow it; the text says which state it is."""


class ResourceExhausted(SandboxerError):
    """A bound was reached; trying again later may work."""

    reason = "other"
    """The resource there is not enough of, in a word: for metrics."""


class TooManyCalls(ResourceExhausted):
    """The bound on calls, starts, Waits or connections under way is reached."""

    reason = "calls"


class OutOfDescriptors(ResourceExhausted):
    """A process of the daemon's, or the node, has no file descriptor left."""

    reason = "descriptors"


class OutOfMemory(ResourceExhausted):
    """The node, or a container's limit, has no memory left for it."""

    reason = "memory"


class OutOfProcesses(ResourceExhausted):
    """No process can be forked."""

    reason = "processes"


class OutOfDisk(ResourceExhausted):
    """A disk is full."""

    reason = "disk"


class Unimplemented(SandboxerError):
    """The method is not implemented."""


class Internal(SandboxerError):
    """The sandboxer failed; the guest is not to blame."""


class Unavailable(SandboxerError):
    """A part of the sandboxer is unavailable for the moment; trying again may work."""


class DeadlineExceeded(SandboxerError):
    """The caller's time was up before there was an answer."""
