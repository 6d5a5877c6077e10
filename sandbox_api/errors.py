"""What can go wrong with a request, in the domain's words. ``status`` maps these to status codes."""

from __future__ import annotations


class SandboxerError(Exception):
    """A request that failed. The text names the id, the cause and, where there is one, the remedy."""


class InvalidArgument(SandboxerError):
    """The request, or a file it names, is malformed, whatever the state of things."""


class NotFound(SandboxerError):
    """No sandbox, container or process of this id; or it has ended, and the call wants it alive."""


class AlreadyExists(SandboxerError):
    """The id is taken."""


class FailedPrecondition(SandboxerError):
    """The state does not allow it; the text says which state it is."""


class ResourceExhausted(SandboxerError):
    """A bound was reached; trying again later may work."""


class Unimplemented(SandboxerError):
    """Nobody serves this method."""


class Internal(SandboxerError):
    """The sandboxer could not do its part; the guest is not to blame."""


class Unavailable(SandboxerError):
    """A part of the sandboxer is away for the moment; trying again may work."""


class DeadlineExceeded(SandboxerError):
    """The caller's time was up before there was an answer."""
