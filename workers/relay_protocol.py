"""The messages between the supervisor and the relay, in frames of ``workers.protocol``.

Every body is a row of numbers (``pack_numbers``). The supervisor says HELLO first, and both speak the highest version
that both know.
"""

from __future__ import annotations

LOWEST_VERSION = HIGHEST_VERSION = 2
"""Versions of these messages that this side speaks."""

# supervisor to relay
HELLO, END = 32, 33
PUMP, CLOSE, RESIZE = 34, 35, 36
KEEP, DROP, HOLD, TAKE = 37, 38, 39, 40
# relay to supervisor
WELCOME, PUMPED, FULL = 48, 49, 50
KEPT, HELD, TAKEN = 51, 52, 53

ALL = 0
"""In place of a kept connection's number."""

INPUT, TERMINAL_INPUT, TERMINAL_OUTPUT = 0, 1, 2
"""Kinds of pump: FIFO to pipe, FIFO to terminal, terminal to FIFO."""

JOURNAL = 0
"""Held descriptors have numbers. This is the journal of pending calls."""

# supervisor to logger, which knows HELLO, WELCOME and END, too
LOG, FINISH = 64, 65
# logger to supervisor
LOGGING, FINISHED = 80, 81

JSON_FILE, SYSLOG = 0, 1
"""Kinds of container log."""
