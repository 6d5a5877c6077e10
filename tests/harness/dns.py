"""The tests' DNS server, run where a test wants it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

SERVER = Path(__file__).with_name("dns_server.py")


class Dns:
    """Lives as long as the ``with``."""

    def __init__(self, *addresses: str, prefix: Sequence[str] = (), **names: str) -> None:
        """Serve these names at these addresses; ``prefix`` is a command that runs the server, such as nsenter's.

        A name's dots are two underscores, and its addresses are divided by commas.
        """
        given = [f"{name.replace('__', '.')}={texts}" for name, texts in names.items()]
        self._command = [*prefix, sys.executable, str(SERVER), *addresses, "--", *given]
        self.questions: list[str] = []
        """Each with its protocol, type and name."""

    def __enter__(self) -> Dns:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.questions.append(line.strip())

    def __exit__(self, *exc: object) -> None:
        """End it; all that it was asked is in ``questions`` then."""
        self._process.kill()
        self._reader.join()
        self._process.wait()
