"""The benchmark: ``make bench``, or ``python -m tests.bench --help``.

A section is a file with a ``measure`` that yields figures: ``lifecycle``, ``throughput``, ``density``, ``compute``,
``modules``, ``peers``. ``figures`` are the values and how they are kept, ``site`` is a sandboxer to measure,
``rivals`` are the programs beside it, and ``report`` writes docs/performance.md from what a run left.
``recovery`` and ``measure_syscalls`` stand alone.
"""
