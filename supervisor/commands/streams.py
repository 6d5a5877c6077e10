"""A process's streams and terminal, moved between the FIFOs that the daemon is given and the caller's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_CHUNK = 1 << 16


class Streams:
    """FIFOs in a folder of their own. Use it as a context manager, before the process is created."""

    def __init__(self, stdin: bool, terminal: bool) -> None:
        self._terminal = terminal
        self._folder = Path(tempfile.mkdtemp(prefix="wasm-io-"))
        self.stdin = self._fifo("stdin") if stdin else ""
        self.stdout = self._fifo("stdout")
        self.stderr = "" if terminal else self._fifo("stderr")
        # Opened before there is a writer: what a short process wrote would be gone with its end.
        self._sources = [
            (os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), target)
            for path, target in ((self.stdout, 1), (self.stderr, 2))
            if path
        ]
        self._outputs: list[threading.Thread] = []
        self.on_input_end: Callable[[], None] = lambda: None
        """Called from another thread when the caller's standard input has ended."""
        self.on_output_lost: Callable[[], None] = lambda: None
        """Called from another thread when the caller's output has no reader any more."""

    def begin(self) -> None:
        """Move bytes from here on. The process has been started, so that it has its ends open, or had."""
        sink = -1
        if self.stdin:
            with contextlib.suppress(OSError):  # it has no reader any more: the process is over
                sink = os.open(self.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        shutil.rmtree(self._folder, ignore_errors=True)  # all is open: if we are killed, nothing is left behind
        for source, target in self._sources:
            os.set_blocking(source, True)
            thread = threading.Thread(target=self._copy_out, args=(source, target), daemon=True)
            thread.start()
            self._outputs.append(thread)
        if sink >= 0:
            threading.Thread(target=self._copy_in, args=(sink,), daemon=True).start()

    def finish(self) -> None:
        """Return when all that the process wrote has been passed on. It has ended."""
        for thread in self._outputs:
            thread.join()

    def close(self) -> None:
        """Remove the FIFOs."""
        if not self._outputs:
            for source, _ in self._sources:
                os.close(source)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _fifo(self, name: str) -> str:
        path = self._folder / name
        os.mkfifo(path, 0o600)
        return str(path)

    def _copy_out(self, source: int, target: int) -> None:
        lost = False
        while data := os.read(source, _CHUNK):
            try:
                while data and not lost:
                    data = data[os.write(target, data) :]
            except OSError:  # read on: a full pipe would hold up the process, and its end
                lost = True
                self.on_output_lost()
        os.close(source)

    def _copy_in(self, sink: int) -> None:
        os.set_blocking(sink, True)
        with contextlib.suppress(OSError):  # the process does not read any more, or its relay is gone
            try:
                while data := os.read(0, _CHUNK):
                    while data:
                        data = data[os.write(sink, data) :]
            finally:
                os.close(sink)
        self.on_input_end()


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Pass on every key as it is, until the end: the guest's own terminal makes lines and signals of them."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is not lost
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
