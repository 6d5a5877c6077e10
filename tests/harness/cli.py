"""The command line as people use it: through pipes, or in a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

from .daemon import ROOT, Daemon

SECONDS = 60
"""Seconds that a test waits for what a command prints."""


class Cli:
    """Commands for one daemon, or for none."""

    def __init__(self, daemon: Daemon | None = None, **environment: str) -> None:
        self._command = [sys.executable, "-m", "supervisor"]
        if daemon is not None:
            self._command += ["--listen", str(daemon.listen), "--dir", str(daemon.dir)]
            self._command += ["--cache-dir", str(daemon.cache)]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}

    def start(self, *words: str | Path, **options: Any) -> Command:
        """Begin a command; its streams are pipes unless said otherwise."""
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        command = [*self._command, *map(str, words)]
        return Command(command, cwd=ROOT, env=self._environment, text=True, **{**pipes, **options})

    def run(self, *words: str | Path, input: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        with self.start(*words, **options) as process:
            out, err = process.communicate(input, timeout=SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def out(self, *words: str | Path, **options: Any) -> str:
        """Run a command that has to succeed, and return its output."""
        done = self.run(*words, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows(self, *words: str | Path) -> list[dict[str, Any]]:
        """The rows of a command's table."""
        return [json.loads(line) for line in self.out(*words, "--format", "json").splitlines()]

    def in_terminal(self, *words: str | Path, width: int = 120, height: int = 40) -> Terminal:
        """Begin a command in a terminal of its own."""
        return Terminal([*self._command, *map(str, words)], self._environment, width, height)

    def in_terminal_shell(self, line: str, folder: Path, width: int) -> Terminal:
        """Begin a line of shell in a terminal of its own, in a folder."""
        return Terminal(["bash", "-c", line], self._environment, width, 40, folder)


class Command(subprocess.Popen[str]):
    """A process that a failure in its ``with`` block ends: else the failure would wait for it."""

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *more)


class Terminal:
    """A command in a pseudo-terminal. Use it as a context manager: it is ended at the end."""

    def __init__(
        self, command: list[str], environment: dict[str, str], width: int, height: int, folder: Path = ROOT
    ) -> None:
        self._master, slave = os.openpty()
        self.resize(width, height)
        environment = {name: value for name, value in environment.items() if name != "COLUMNS"} | {"TERM": "xterm"}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: os.login_tty(0),
        )
        os.close(slave)
        self.text = ""

    def resize(self, width: int, height: int) -> None:
        """Change the window's size, in characters."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def expect(self, what: str) -> str:
        """Read on until this has been shown; all that was shown up to its end, since the last time."""
        deadline = time.monotonic() + SECONDS
        while what not in self.text:
            assert self._read(deadline), f"no {what!r} in {self.text!r}"
        before, found, self.text = self.text.partition(what)
        return before + found

    def wait(self) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline):
            pass
        return self.process.wait(SECONDS)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing more within {SECONDS} s: {self.text!r}"
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
