"""Fresh Debian systems in folders, in which the tests run as on a bare machine: ``make roots``."""
