"""Demo and tests in fresh Debian 12 and 13, which are to be left as they were: ``python -m tests.roots``."""

from __future__ import annotations

import argparse
import subprocess
import sys

from .system import System, debian

SUITES = ("bookworm", "trixie")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.roots")
    parser.add_argument("--suite", action="append", choices=SUITES, help="these only")
    parser.add_argument("--make", action="append", metavar="TARGET", help="these targets only (demo, test)")
    options = parser.parse_args()
    failed = []
    for suite in options.suite or SUITES:
        system = System(debian(suite), suite)
        system.take_tree()
        before = system.of_the_host()
        for target in options.make or ("demo", "test"):
            try:
                system.run("make", target)
            except subprocess.CalledProcessError:
                failed.append(f"{suite}: make {target}")
        after = system.of_the_host()
        if before != after:
            changed = set(before.splitlines()) ^ set(after.splitlines())
            failed.append(f"{suite} is not what it was:\n  " + "\n  ".join(sorted(changed)))
        if left := system.left():
            failed.append(f"{suite}: left behind:\n  " + "\n  ".join(left))
        system.remove()
    for what in failed:
        print(f"failed: {what}", file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
