"""Becomes a sandboxer whose workers lack some of their walls.

python -m tests.bench.walled WALL[,WALL...] PYTHON -m supervisor ARGUMENTS...

``none`` lacks none. All of them run behind one more seccomp filter, which costs them alike.
"""

from __future__ import annotations

import runpy
import sys

from supervisor.seccomp import library

from ..harness.refusing import refuse

SECCOMP, LANDLOCK, EMPTY_ROOT, NONE = "seccomp", "landlock", "empty-root", "none"
_CALLS = {LANDLOCK: "landlock_create_ruleset", EMPTY_ROOT: "pivot_root"}
_NEVER_MADE = "swapoff"


def _missing() -> None:
    raise library.SeccompMissing("left out, to measure what it costs")


def main() -> None:
    """Leave the walls out and become the sandboxer."""
    lacking = sys.argv[1].split(",")
    refuse(_NEVER_MADE, *(call for wall, call in _CALLS.items() if wall in lacking))
    if SECCOMP in lacking:
        library._load = _missing  # type: ignore[assignment]
    sys.argv = sys.argv[4:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
