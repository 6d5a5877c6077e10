"""The messages between the supervisor and the relay, in frames of ``workers.protocol``.

Bodies are rows of numbers (``pack_numbers``), but for FORWARD's and LOG's, whose first field is one (``pack``). The
supervisor says HELLO first, and both speak the highest version that both know.
"""

from __future__ import annotations

LOWEST_VERSION = HIGHEST_VERSION = 3
"""Versions of these messages that this side speaks."""

# supervisor to relay
HELLO, END = 32, 33
PUMP, CLOSE, RESIZE = 34, 35, 36
KEEP, DROP, HOLD, TAKE, FORWARD = 37, 38, 39, 40, 41
# relay to supervisor
WELCOME, PUMPED, FULL = 48, 49, 50
KEPT, HELD, TAKEN = 51, 52, 53

ALL = 0
"""In place of a kept connection's number."""

INPUT, TERMINAL_INPUT, TERMINAL_OUTPUT = 0, 1, 2
"""Kinds of pump: FIFO to pipe, FIFO to terminal, terminal to FIFO."""

JOURNAL, TASKS, GRPC_TASKS, SANDBOXES = 0, 1, 2, 3
"""Held descriptors have numbers: the journal of pending calls, and the listening sockets."""

# supervisor to logger, which knows HELLO, WELCOME and END, too
LOG, FINISH = 64, 65
# logger to supervisor
LOGGING, FINISHED = 80, 81

JSON_FILE, SYSLOG = 0, 1
"""Kinds of container log."""
