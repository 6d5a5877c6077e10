"""The session that README.md shows: commands run in a terminal, and what they printed there.

``python -m tests.recording`` runs it on a daemon of its own and writes it between the marks in README.md.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .harness.cli import Cli
from .harness.daemon import ROOT, Daemon
from .harness.guests import guest

BEGIN, END = "<!-- recorded by tests/recording.py -->\n```\n", "```\n<!-- end of the recording -->"
WIDTH = 118

ALONE = ("run hello.wasm", "run args.wasm one two", "run -i cat.wasm < notes", "run exit.wasm 7; echo status $?")
SERVED = (
    "run -d --name web --memory 64M sleep.wasm 3600",
    "run --name job exit.wasm 3; echo status $?",
    "ps -a",
    "logs web",
    "stats web",
    "pause web && wasm-sandboxer ps && wasm-sandboxer resume web",
    "events | tail -n 4",
    "stop web",
    "rm web job",
    "pods",
)
"""Without a daemon, and with one."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def record(cli: Cli, commands: tuple[str, ...], folder: Path) -> Iterator[str]:
    """The lines that a terminal shows for these."""
    python = f"{shlex.quote(sys.executable)} -m supervisor --cache-dir {folder.parent}/cache"
    program = f'wasm-sandboxer() {{ {python} "$@"; }}'
    for command in commands:
        line = f"wasm-sandboxer {command}"
        with cli.in_terminal_shell(f"{program}; {line}", folder, WIDTH) as terminal:
            terminal.wait()
            shown = _ESCAPES.sub("", terminal.text).splitlines()
        yield "".join(f"{each.rstrip()}\n" for each in [f"$ {line}", *shown])


def session() -> str:
    """The whole session."""
    with Daemon() as daemon:
        folder = daemon.folder / "work"
        folder.mkdir()
        for name in ("hello", "args", "cat", "exit", "sleep"):
            shutil.copy(guest(name), folder / f"{name}.wasm")
        (folder / "notes").write_text("what the guest reads\n")
        nowhere = {"WASM_SANDBOXER_LISTEN": f"{daemon.folder}/none", "WASM_SANDBOXER_DIR": f"{daemon.folder}/nodir"}
        there = {"WASM_SANDBOXER_LISTEN": str(daemon.listen), "WASM_SANDBOXER_DIR": str(daemon.dir)}
        served = "".join(record(Cli(**there), SERVED, folder))
        return "".join(record(Cli(**nowhere), ALONE, folder)) + "\n$ # with a daemon\n" + served


def main() -> None:
    """Write it into README.md."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + session() + END + after)


if __name__ == "__main__":
    main()
