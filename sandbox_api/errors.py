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


class Unimplemented(SandboxerError):
    """The method is not implemented."""


class Internal(SandboxerError):
    """The sandboxer failed; the guest is not to blame."""


class Unavailable(SandboxerError):
    """A part of the sandboxer is unavailable for the moment; trying again may work."""


class DeadlineExceeded(SandboxerError):
    """The caller's time was up before there was an answer."""
