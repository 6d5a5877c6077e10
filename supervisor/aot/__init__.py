"""Ahead-of-time compilation: modules become machine code once, and starts run the best there is.

``choice`` picks the engine, and is what the daemon talks to; ``policy`` finds or orders an engine's products; ``cache``
are the files; ``compiling`` is the queue; ``compiler_process`` starts the process a compile runs in
(``workers/compiler.py``); ``identity`` tells a file without reading it.
"""
