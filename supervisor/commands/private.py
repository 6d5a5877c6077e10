"""A daemon of a command's own, where none listens: it lives as long as the command, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import psutil

from ..host import folders, sockets
from ..ipc.channel import socket_path
from .client import Node

_START_SECONDS = 30
_END_SECONDS = 30
_MOST_DEATHS = 5


class PrivateDaemon:
    """A daemon in a temporary folder. Use it as a context manager.

    Where it dies it is started again, as by a service manager: what it ran goes on, and calls are answered. Where that
    fails, all that it left is ended, and pending calls fail.
    """

    def __init__(self, context: click.Context) -> None:
        """Take the options of the command line that are about containers."""
        if os.geteuid() != 0:
            raise click.ClickException("no daemon listens, and only root can start one: run this as root")
        self._params = context.find_root().params
        self._lock = threading.Lock()
        self._ending = False

    def __enter__(self) -> Node:
        self._folder = _make_folder()
        try:
            self._start()
        except BaseException:
            folders.remove(str(self._folder))
            raise
        threading.Thread(target=self._keep, daemon=True).start()
        return Node(self._folder / "api.sock", self._folder)

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._ending = True
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        folders.remove(str(self._folder))

    def _keep(self) -> None:
        """Start the daemon again when it has died, unless it was told to end."""
        reason = f"it died {_MOST_DEATHS} times"
        for _ in range(_MOST_DEATHS - 1):
            self._process.wait()
            with self._lock:
                if self._ending:
                    return
                try:
                    self._start()
                except (click.ClickException, OSError) as error:  # killed while it started, say: once more
                    reason = str(error)
        self._process.wait()
        with self._lock:
            if not self._ending:
                click.echo(f"wasm-sandboxer: the daemon died and is not started again: {reason}", err=True)
                self._end_helpers()

    def _end_helpers(self) -> None:
        """Kill what was started from the folder. The relay's end closes the connections on which calls wait."""
        from .. import cgroups
        from ..ipc.forkserver import label

        names = str(self._folder), label(f"{self._folder}/forkserver")
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and any(name in word for name in names for word in process.cmdline()):
                    process.kill()
                    process.wait(_END_SECONDS)
        with contextlib.suppress(OSError):
            cgroups.detect(owner=str(self._folder)).remove_owned()

    def _start(self) -> None:
        """Start it. Raises ``ClickException`` and ``OSError``."""
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
        command += ["--aot", params["aot_mode"], "--cache-dir", str(params["cache_dir"]), "--engine", params["engine"]]
        command += ["--images", params["images"], "--image-memory", str(params["image_memory"])]
        if params["require_confinement"]:
            command += ["--require-confinement"]
        command += ["--cache-size", str(params["cache_size"])]
        command += ["--aot-timeout", str(params["aot_timeout"]), "--aot-memory", str(params["aot_memory"])]
        if params.get("libwasmedge"):
            command += ["--libwasmedge", str(params["libwasmedge"])]
        log = self._folder / "log"
        notify = self._folder / "notify.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, log.open("wb") as errors:
            notify.unlink(missing_ok=True)  # of a start before
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


def _make_folder() -> Path:
    """Make a folder for the daemon: in /run, where the one for temporary files has too long a path for sockets."""
    parent, name = tempfile.gettempdir(), "wasm-run-"
    try:
        sockets.check_folder(Path(parent, name + "8letters"), Path(socket_path("", "forkserver")).name)
    except sockets.SocketTaken:
        parent = "/run"
    return Path(tempfile.mkdtemp(prefix=name, dir=parent))
