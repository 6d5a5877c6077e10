"""The messages between the supervisor and the relay, in frames of ``workers.protocol``.

Bodies are rows of numbers (``pack_numbers``), but for FORWARD's and LOG's, whose first field is one (``pack``). Later
versions may add numbers at a row's end. The supervisor says HELLO first, and both speak the highest version that both
know. What a relay or logger has already is spoken of in messages with versions of their own (docs/upgrading.md): HELLO,
END, CLOSE, RESIZE, TAKE, RELEASE, FINISH and their answers.
"""

from __future__ import annotations

LOWEST_VERSION = HIGHEST_VERSION = 4
"""Versions of these messages that this side speaks."""
LOWEST_KEEPING = HIGHEST_KEEPING = 1
"""Versions of the messages about what a helper has."""
VERSIONS = LOWEST_VERSION, HIGHEST_VERSION, LOWEST_KEEPING, HIGHEST_KEEPING
"""The numbers of a HELLO, and of a WELCOME."""

# supervisor to relay
HELLO, END = 32, 33
PUMP, CLOSE, RESIZE = 34, 35, 36
KEEP, DROP, HOLD, TAKE, FORWARD = 37, 38, 39, 40, 41
STAND = 42
RELEASE = 43
"""To relay and logger: another takes what is new. Give up what was taken, and go once the rest has ended."""
# relay to supervisor
WELCOME, PUMPED, FULL = 48, 49, 50
KEPT, HELD, TAKEN = 51, 52, 53
STANDING = 54
"""And STAND: a client that was let in, and whose server is not there yet, with its listening socket's number."""

ALL = 0
"""In place of a kept connection's number."""

INPUT, TERMINAL_INPUT, TERMINAL_OUTPUT = 0, 1, 2
"""Kinds of pump: FIFO to pipe, FIFO to terminal, terminal to FIFO."""

JOURNAL, TASKS, GRPC_TASKS, SANDBOXES = 0, 1, 2, 3
LISTENERS = (TASKS, GRPC_TASKS, SANDBOXES)
"""Held descriptors have numbers: the journal of pending calls, and the listening sockets. Others may be a later
version's: they are held on for it."""

# supervisor to logger, which knows HELLO, WELCOME and END, too
LOG, FINISH = 64, 65
# logger to supervisor
LOGGING, FINISHED = 80, 81
LOGS = 82
"""Answer to RELEASE: the instances whose logs it has."""

JSON_FILE, SYSLOG = 0, 1
"""Kinds of container log."""
