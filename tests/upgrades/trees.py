"""Trees of other versions: the next one, made of this one; and the first of 0.2.0."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from supervisor.state import schema
from workers import greeting, relay_protocol

from ..harness.daemon import ROOT

FIRST_OF_0_2_0 = "5609cf69054a3ae4c4e88b6646882e32d9465b9b"
"""The commit that later versions join."""
PACKAGES = ("sandbox_api", "supervisor", "workers")

_FORKSERVER = greeting.FORKSERVER.highest
_KEEPING = greeting.KEEPING.highest
_RELAY = relay_protocol.HIGHEST_VERSION
_RELAY_KEEPING = relay_protocol.HIGHEST_KEEPING
_ANOTHER_ENGINE = '''

class Another(Engine):
    """The engine more. Nothing chooses it."""

    name, version, stages = b"another", "1", range(0)

    def prime(self) -> None:
        """It needs nothing."""


ENGINES = (*ENGINES, Another)
'''
_SAY_LATE_IMPORTS = '''

def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import":
        posix.write(2, b"LATE IMPORT of " + str(arguments[0]).encode() + b"\\n")


_say_ready = say_ready


def say_ready() -> None:
    """What is imported from now on would come from whatever files are there by then."""
    import sys

    _say_ready()
    sys.addaudithook(_hook)
'''
_EDITS: dict[str, tuple[tuple[str, str], ...]] = {
    # The next numbers of the protocols: nothing that starts anything is understood by both.
    "workers/greeting.py": (
        (
            f"FORKSERVER = Versions({_FORKSERVER}, {_FORKSERVER})",
            f"FORKSERVER = Versions({_FORKSERVER + 1}, {_FORKSERVER + 1})",
        ),
        (f"KEEPING = Versions({_KEEPING}, {_KEEPING})", f"KEEPING = Versions({_KEEPING}, {_KEEPING + 1})"),
        # Fields and numbers more.
        ("EXIT_NUMBERS = 5", "EXIT_NUMBERS = 5\nMORE_NUMBERS = 6"),
        (
            "EXITS: pack_rows(EXIT_NUMBERS, self.exits),",
            "EXITS: pack_rows(MORE_NUMBERS, _longer(self.exits)), 900: b'more',",
        ),
        (
            "def _keeping(",
            "def _longer(exits):\n    rows = [exits[i : i + 5] for i in range(0, len(exits), 5)]\n"
            "    return [number for row in rows for number in (*row, 77)]\n\n\ndef _keeping(",
        ),
        (
            "return pack_tagged({VERSIONS: self.versions.encode(), **_keeping(self.keeping), **given})",
            "return pack_tagged({VERSIONS: self.versions.encode(), **_keeping(self.keeping), **given, 901: b'more'})",
        ),
    ),
    "workers/relay_protocol.py": (
        (f"LOWEST_VERSION = HIGHEST_VERSION = {_RELAY}", f"LOWEST_VERSION = HIGHEST_VERSION = {_RELAY + 1}"),
        (
            f"LOWEST_KEEPING = HIGHEST_KEEPING = {_RELAY_KEEPING}",
            f"LOWEST_KEEPING = {_RELAY_KEEPING}\nHIGHEST_KEEPING = {_RELAY_KEEPING + 1}",
        ),
        (
            "VERSIONS = LOWEST_VERSION, HIGHEST_VERSION, LOWEST_KEEPING, HIGHEST_KEEPING",
            "VERSIONS = LOWEST_VERSION, HIGHEST_VERSION, LOWEST_KEEPING, HIGHEST_KEEPING, 78",
        ),
    ),
    # A message more, both ways.
    "workers/protocol.py": (
        ("ACK, END, PING, PREPARE = 1, 2, 3, 4, 5, 6, 7", "ACK, END, PING, PREPARE, ASK = 1, 2, 3, 4, 5, 6, 7, 8"),
        ("PONG, IMAGE = 16, 17, 18, 19, 20, 21", "PONG, IMAGE, SAID = 16, 17, 18, 19, 20, 21, 22"),
    ),
    "workers/forkserver.py": (
        (
            "            elif frame.kind == PING:\n",
            "            elif frame.kind == 8:\n                self._send(22, frame.body)\n"
            "            elif frame.kind == PING:\n",
        ),
        ("self._send(EXITED, pack_rows(EXIT_NUMBERS, told))", "self._send(22, b''); self._send(EXITED, _more(told))"),
        (
            "def main() -> None:",
            "def _more(told):\n    rows = [told[i : i + 5] for i in range(0, len(told), 5)]\n"
            "    return pack_rows(6, [number for row in rows for number in (*row, 77)])\n\n\ndef main() -> None:",
        ),
    ),
    "supervisor/ipc/forkserver.py": (
        ("        return await self._own.connect(", "        try:\n            return await self._own.connect("),
        (
            "Hello(FORKSERVER, self._filters, self._image_memory))\n",
            "Hello(FORKSERVER, self._filters, self._image_memory))\n"
            "        finally:\n            self._helper.send(8, b'?')\n",
        ),
    ),
    # A member, a column and a table more.
    "supervisor/oci/rootfs.py": (
        ("    pod_files: tuple[str, ...] = ()", "    later: int = 5\n    pod_files: tuple[str, ...] = ()"),
    ),
    "supervisor/state/schema.py": (
        (f"\nVERSION = {schema.VERSION}\n", f"\nVERSION = {schema.VERSION + 1}\n"),
        (
            "_MIGRATIONS: dict[int, str] = {}",
            f"""_MIGRATIONS: dict[int, str] = {{
    {schema.VERSION}: "ALTER TABLE processes ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey';"
    " CREATE TABLE later (name TEXT NOT NULL);"
}}""",
        ),
        (
            "    purged INTEGER NOT NULL DEFAULT 0,",
            "    colour TEXT NOT NULL DEFAULT 'grey', purged INTEGER NOT NULL DEFAULT 0,",
        ),
        ("CREATE TABLE boot", "CREATE TABLE later (name TEXT NOT NULL);\nCREATE TABLE boot"),
    ),
    "supervisor/state/store.py": (
        ('"UPDATE processes SET state = ?', "\"UPDATE processes SET colour = 'red', state = ?"),
    ),
    "supervisor/__init__.py": (("        return version(", "        return 'next' or version("),),
}


def next_version(folder: Path) -> Path:
    """Make the next version of this tree in ``folder``; the tree."""
    tree = _copy(folder / "next")
    for name, edits in _EDITS.items():
        path = tree / name
        text = path.read_text()
        for before, after in edits:
            assert text.count(before) == 1, (
                f"{name} has {before!r} {text.count(before)} times: mend tests/upgrades/trees.py"
            )
            text = text.replace(before, after)
        path.write_text(text)
    for name, more in (("workers/engines/__init__.py", _ANOTHER_ENGINE), ("workers/boot.py", _SAY_LATE_IMPORTS)):
        with (tree / name).open("a") as file:
            file.write(more)
    return tree


def this_version(folder: Path) -> Path:
    """A copy of this tree, to be removed or replaced while it runs."""
    return _copy(folder / "this")


def _copy(tree: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


def first_of_0_2_0(folder: Path) -> Path | None:
    """The tree of 0.2.0's first commit; None where there is no history or git here."""
    if shutil.which("git") is None:
        return None
    known = subprocess.run(
        ["git", "rev-parse", "--quiet", "--verify", f"{FIRST_OF_0_2_0}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if known.returncode:
        return None
    tree = folder / "first"
    tree.mkdir()
    archive = subprocess.run(
        ["git", "archive", FIRST_OF_0_2_0, *PACKAGES], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    return tree
