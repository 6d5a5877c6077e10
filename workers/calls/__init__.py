"""Lists of C calls, built before a fork and made after it without Python."""
