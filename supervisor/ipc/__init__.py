"""Our clients of the helper processes: forkserver and relay."""
