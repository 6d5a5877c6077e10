"""Sandboxes, containers and processes: their states, files, mounts and limits, and the command line."""
