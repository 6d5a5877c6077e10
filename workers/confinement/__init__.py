"""The walls around a worker: user and capabilities, Landlock, seccomp."""
