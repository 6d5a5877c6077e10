"""Ahead-of-time compilation: modules become machine code once, and starts run the best there is.

``policy`` is what the daemon talks to; ``cache`` are the files; ``compiling`` is the queue; ``cell`` starts the
process a compile runs in (``workers/compiler.py``); ``identity`` tells a file without reading it.
"""
