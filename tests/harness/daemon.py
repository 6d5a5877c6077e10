"""The real daemon as a process of its own, on paths of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from supervisor import cgroups
from supervisor.ipc.forkserver import label

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 30
END_SECONDS = 2


FORKED = ("zygote-root", "zygote-worker", "zygote-bare", "wasm-worker")
"""Names of the forkserver's children, whose command line is its own."""


class Daemon:
    """A running sandboxer. Use it as a context manager: it leaves no process, mount, control group or file behind."""

    def __init__(self, *options: str, folder: Path | None = None) -> None:
        # Short: a socket's path has 107 bytes.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="wasm-sb-"))
        self._options = options
        self._listen = "api.sock"
        self.environment: dict[str, str] = {}
        self.tree = ROOT
        """The version that it runs from its next start on."""
        self.prefix: list[str] = []
        """A command that becomes the daemon, with fewer rights say."""
        self.python = sys.executable
        self.program = ["-m", "supervisor"]
        """What Python runs."""
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "log"

    @property
    def listen(self) -> Path:
        return self.folder / self._listen

    def listen_as(self, name: str) -> None:
        """Have another address from its next start on."""
        self._listen = name

    @property
    def dir(self) -> Path:
        return self.folder / "dir"

    @property
    def cache(self) -> Path:
        """Cache of compiled modules."""
        return self.folder / "cache"

    @property
    def task_socket(self) -> Path:
        return self.dir / "task.sock"

    def add_options(self, *options: str) -> None:
        """Have these, too, from its next start on."""
        self._options += options

    def start(self) -> Daemon:
        """Start it and wait until it says that it is ready."""
        notify = self.folder / "notify.sock"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(notify))
            self.launch()
            assert self.process is not None
            deadline = time.monotonic() + START_SECONDS
            sock.settimeout(0.2)
            while True:
                try:
                    if b"READY=1" in sock.recv(4096):
                        return self
                except TimeoutError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        self.kill()
                        raise AssertionError(f"the daemon did not start:\n{self.log_text()}") from None

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        command = [self.python, *self.program, "--listen", str(self.listen), "--dir", str(self.dir)]
        command += ["--cache-dir", str(self.cache), "--aot", os.environ.get("SANDBOXER_TEST_AOT", "auto")]
        command += ["--engine", os.environ.get("SANDBOXER_TEST_ENGINE", "auto")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *command, "--log-level", "debug", *self._options],
                cwd=self.tree,
                env={**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify.sock"), **self.environment},
                stderr=log,
            )

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        self.process = None
        return status

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def helpers(self) -> list[psutil.Process]:
        """The forkserver and relay of this daemon's folder, with what they forked."""
        found = []
        ours = label(f"{self.dir}/forkserver")
        for process in psutil.process_iter(["cmdline", "name"]):
            if any(str(self.dir) in part or part.startswith(ours) for part in process.info["cmdline"] or []):
                found.append(process)
                if process.info["name"] not in FORKED:  # to ask each of a thousand workers takes minutes
                    with contextlib.suppress(psutil.NoSuchProcess):
                        found += process.children(recursive=True)
        return [process for process in found if self.process is None or process.pid != self.process.pid]

    def named(self) -> list[tuple[str, str, psutil.Process]]:
        """The helpers that are there still, with their names and psutil's word for their states."""
        found: dict[int, tuple[str, str, psutil.Process]] = {}
        for helper in self.helpers():
            try:
                found[helper.pid] = (helper.name(), helper.status(), helper)
            except psutil.NoSuchProcess:
                pass
        return list(found.values())

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live."""
        return [each for name, status, each in self.named() if name == "wasm-worker" and status != psutil.STATUS_ZOMBIE]

    def zombies(self) -> list[psutil.Process]:
        """List zombies: processes that have ended and were not reaped."""
        return [each for _, status, each in self.named() if status == psutil.STATUS_ZOMBIE]

    def mounts(self) -> list[str]:
        """Mount points below the folder."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines if line.split()[4].startswith(f"{self.folder}/")]

    def _unmount(self) -> None:
        for mount in reversed(self.mounts()):
            subprocess.run(["umount", "-l", mount], check=False)

    def __enter__(self) -> Daemon:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        if self.process is not None:
            self.stop()
        groups = cgroups.detect(owner=str(self.dir))
        with contextlib.suppress(OSError):
            groups.thaw_owned()
        for helper in self.helpers():
            try:
                helper.kill()
            except psutil.NoSuchProcess:
                pass
        deadline = time.monotonic() + END_SECONDS
        with contextlib.suppress(OSError):
            while groups.remove_owned() and time.monotonic() < deadline:
                time.sleep(0.01)
        self._unmount()
        if "PYTEST_CURRENT_TEST" in os.environ:
            print(self.log_text()[-20_000:])  # shown where a test failed
        shutil.rmtree(self.folder, ignore_errors=True)
