"""A target under Atheris: ``python -m tests.fuzz.child NAME [options of libFuzzer] FOLDERS``; ends at a fault."""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["sandbox_api", "supervisor", "workers"]):
    from .target import Target

    target = Target(sys.argv.pop(1))


def main() -> None:
    """Run until told to stop, or until a run fails: then the input is written where ``-artifact_prefix`` says."""
    logging.getLogger().addHandler(logging.NullHandler())  # records are made, and written nowhere
    mutate = target.mutate
    others = {"custom_mutator": mutate} if mutate is not None else {}
    atheris.Setup([*sys.argv, f"-max_len={target.most}"], target.run, **others)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
