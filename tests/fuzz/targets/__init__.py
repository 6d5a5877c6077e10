"""Targets of the fuzzer.

``run(data)`` is all that a target needs. ``WORDS`` are strings that are likely in its format, ``MOST`` the bytes that
an input may have (4,096 where it does not say), and ``mutate`` another way to change one.
"""
