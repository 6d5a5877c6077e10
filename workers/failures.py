"""Failures of a worker's own set-up, told by calls: a worker need not have Python to say why it ends.

What an engine finds wrong with a module, and what the copy of its bytes finds, ``worker.end`` says in Python.
"""

from __future__ import annotations

from . import protocol
from .calls.call_list import At, Label
from .protocol import FAILED, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .calls.call_list import CallList

SETUP_FAILED = 125  # exit status of a worker that never ran its guest; it is never reported as a guest's

STREAMS, TERMINAL, CGROUP, NETNS, LIMITS, USER, WALLS = range(1, 8)
UNREADABLE, RESOLVER = 9, 13
"""Labels of the steps that can fail."""

TOLD = {
    STREAMS: FAILED + b"streams: %s",
    TERMINAL: FAILED + b"terminal: %s",
    CGROUP: FAILED + protocol.CGROUP.encode() + b": %s",
    NETNS: FAILED + b"network namespace: %s",
    LIMITS: FAILED + b"resource limits: %s",
    USER: FAILED + b"user and capabilities: %s",
    WALLS: FAILED + b"Landlock and seccomp: %s",
    RESOLVER: FAILED + b"root of the resolver: %s",
    UNREADABLE: REFUSED + b"the container's user may not read the module: %s",
}
"""The verdicts of the steps with these labels, with a place for the errno's text."""
_MOST = 160
"""Bytes of a verdict."""


def add_verdicts(calls: CallList, report: int) -> None:
    """Bind the list's tails: each writes its verdict into the report and ends the process."""
    if not calls.tails:
        return
    format_, where, number, text, length = (calls.slot() for _ in range(5))
    said = calls.data(bytes(_MOST))
    last = Label()
    for stage, label in calls.tails.items():
        calls.bind(label)
        calls.libc("memcpy", format_, calls.table([TOLD[stage]]), 8)
        calls.go(last)
    calls.bind(last)
    calls.libc("__errno_location", out=where)
    calls.libc("memcpy", number, At(where), 4)
    calls.libc("strerror", At(number), out=text)
    calls.libc("snprintf", said, _MOST, At(format_), At(text), out=length)
    calls.libc("write", report, said, At(length))
    calls.libc("_exit", SETUP_FAILED)
