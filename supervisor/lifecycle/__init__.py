"""Containers and processes from Create to Delete: starts, signals, exits, recovery, events, usage."""
