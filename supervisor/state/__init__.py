"""The state file: one SQLite database below ``--dir``."""
