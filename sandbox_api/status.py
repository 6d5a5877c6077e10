"""The one place where errors become status codes (gRPC's numbers, which ttrpc shares)."""

from __future__ import annotations

import logging

from . import errors

OK = 0
INTERNAL = 13

_CODES: dict[type[Exception], int] = {
    errors.InvalidArgument: 3,
    errors.DeadlineExceeded: 4,
    errors.NotFound: 5,
    errors.AlreadyExists: 6,
    errors.ResourceExhausted: 8,
    errors.FailedPrecondition: 9,
    errors.Unimplemented: 12,
    errors.Internal: INTERNAL,
    errors.Unavailable: 14,
}
_ERRORS = {code: kind for kind, code in _CODES.items() if issubclass(kind, errors.SandboxerError)}

log = logging.getLogger(__name__)

MOST_CHARACTERS, MOST_OTHERS = 2000, 600
"""Of a message, in ASCII and otherwise. It quotes what was wrong, which may be megabytes; gRPC's clients take 8 KiB of
it and of what else ends an answer, in which a character may take 12 bytes."""


def of(error: Exception, method: str) -> tuple[int, str]:
    """The status code and message of a failed call. Unexpected errors are logged with their trace."""
    if isinstance(error, MemoryError):
        error = errors.OutOfMemory(f"{method}: the sandboxer is out of memory: try again later")
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)
    text = str(error)
    if code is None:
        log.error("%s failed unexpectedly", method, exc_info=error)
        code, text = INTERNAL, f"{method}: {type(error).__name__}: {text}"
    most = MOST_CHARACTERS if text.isascii() else MOST_OTHERS
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 3 :]}"
    # Names of files may be no UTF-8 and come as lone surrogates, which no message can carry.
    text = text.encode(errors="backslashreplace").decode()
    log.debug("%s: %s", method, text)
    return code, text


def error(code: int, message: str) -> errors.SandboxerError:
    """The error that a status received from a peer stands for."""
    return _ERRORS.get(code, errors.Internal)(message)
