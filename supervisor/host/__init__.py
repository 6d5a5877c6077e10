"""The host: system calls, sockets, /proc, logs."""
