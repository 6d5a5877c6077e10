"""Coverage-guided fuzzing of all that parses bytes of others: ``make fuzz``.

A target is a file of ``targets``: ``run`` takes bytes and raises where a property does not hold. What each has to stand
is in ``corpus``, a folder a target: bytes of real clients and engines, and whatever once did harm.
"""
