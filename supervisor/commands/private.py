"""A daemon of a command's own, where none listens: it lives as long as the command, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from ..host import folders
from .client import Node

_START_SECONDS = 30
_END_SECONDS = 30


class PrivateDaemon:
    """A daemon in a temporary folder. Use it as a context manager."""

    def __init__(self, context: click.Context) -> None:
        """Take the compiler's options of the command line."""
        if os.geteuid() != 0:
            raise click.ClickException("no daemon listens, and only root can start one: run this as root")
        self._params = context.find_root().params

    def __enter__(self) -> Node:
        self._folder = Path(tempfile.mkdtemp(prefix="wasm-run-"))
        try:
            self._start()
        except BaseException:
            folders.remove(str(self._folder))
            raise
        return Node(self._folder / "api.sock", self._folder)

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        folders.remove(str(self._folder))

    def _start(self) -> None:
        params = self._params
        # The folder we are in may have a "supervisor" of its own.
        command = [
            sys.executable,
            "-I" if sys.flags.isolated else "-P",
            "-m",
            "supervisor",
            "--private",
            "--log-level",
            "error",
        ]
        command += ["--listen", str(self._folder / "api.sock"), "--dir", str(self._folder)]
        command += ["--aot", params["aot_mode"], "--cache-dir", str(params["cache_dir"])]
        command += ["--cache-size", str(params["cache_size"])]
        command += ["--aot-timeout", str(params["aot_timeout"]), "--aot-memory", str(params["aot_memory"])]
        if params.get("libwasmedge"):
            command += ["--libwasmedge", str(params["libwasmedge"])]
        log = self._folder / "log"
        notify = self._folder / "notify.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, log.open("wb") as errors:
            sock.bind(str(notify))
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # it ends when this does: with us, whatever becomes of us
                stdout=errors,
                stderr=errors,
                env={**os.environ, "NOTIFY_SOCKET": str(notify)},
                start_new_session=True,  # signals from the terminal are ours to pass on
            )
            sock.settimeout(0.1)
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    if b"READY=1" in sock.recv(4096):
                        return
                except TimeoutError:
                    if self._process.poll() is None and time.monotonic() < deadline:
                        continue
                    self._process.kill()
                    self._process.wait()
                    said = log.read_text(errors="replace").strip().splitlines()
                    raise click.ClickException(said[-1] if said else "the daemon did not start") from None
