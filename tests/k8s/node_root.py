"""A root of its own for a node: this machine's files through an overlay, and someone who plays systemd's part there."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

SYSTEMCTL = """\
#!/usr/bin/python3 -I
import socket, sys

with socket.socket(socket.AF_UNIX) as systemd:
    systemd.connect("/run/systemd.sock")
    systemd.sendall(" ".join(sys.argv[1:]).encode())
    systemd.shutdown(socket.SHUT_WR)
    sys.exit(systemd.recv(1) != b"0")
"""
CHROOT = "/usr/sbin/chroot"
UNIT = "etc/systemd/system/wasm-sandboxer.service"


class NodeRoot:
    """``path`` is the root; ``calls`` are systemctl's, of which those for wasm-sandboxer.service are obeyed.

    The unit's ExecStart runs with its EnvironmentFile, is ready when it says so, and ends by SIGTERM alone. All that is
    written is on a tmpfs, and folders are removed by rmdir(2): /sys of this machine is bound there.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="k8s-node-", dir="/tmp"))
        self.path = self._folder / "root"
        self.calls: list[str] = []
        self._parts = ExitStack()
        self._service: subprocess.Popen[bytes] | None = None
        self._systemd = socket.socket(socket.AF_UNIX)

    @property
    def log(self) -> Path:
        """What wasm-sandboxer.service said."""
        return self._folder / "layers" / "log"

    def __enter__(self) -> NodeRoot:
        with ExitStack() as parts:
            layers = self._folder / "layers"
            parts.callback(self._folder.rmdir)
            for folder in (layers, self.path):
                folder.mkdir()
                parts.callback(folder.rmdir)
                parts.callback(_unmount, folder)
            _run("mount", "-t", "tmpfs", "layers", str(layers))
            for name in ("upper", "work"):
                (layers / name).mkdir()
            options = f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work"
            _run("mount", "-t", "overlay", "-o", options, "root", str(self.path))
            for name in ("run", "tmp", "dev"):
                _run("mount", "-t", "tmpfs", name, str(self.path / name))
            for name in ("null", "zero", "random", "urandom"):
                (self.path / "dev" / name).touch()
                _run("mount", "--bind", f"/dev/{name}", str(self.path / "dev" / name))
            _run("mount", "-t", "proc", "proc", str(self.path / "proc"))
            _run("mount", "--rbind", "/sys", str(self.path / "sys"))
            for name in ("usr/bin/systemctl", "etc/containerd/config.toml", UNIT):
                (self.path / name).unlink(missing_ok=True)
            (self.path / "usr/bin/systemctl").write_text(SYSTEMCTL)
            (self.path / "usr/bin/systemctl").chmod(0o755)
            self._systemd.bind(str(self.path / "run/systemd.sock"))
            self._systemd.listen()
            parts.callback(self._stop)
            threading.Thread(target=self._answer, daemon=True).start()
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._systemd.close()
        self._parts.close()

    def run(self, *command: str) -> str:
        """What a command prints there. Raises ``CalledProcessError``."""
        done = subprocess.run([CHROOT, self.path, *command], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def files(self, *patterns: str) -> set[str]:
        """Names in the root that fit one of these patterns."""
        return {str(path.relative_to(self.path)) for pattern in patterns for path in self.path.glob(pattern)}

    def _answer(self) -> None:
        while True:
            try:
                client, _ = self._systemd.accept()
            except OSError:
                return
            with client:
                words = b"".join(iter(lambda: client.recv(4096), b"")).decode()  # noqa: B023
                self.calls.append(words)
                client.sendall(b"0" if self._obey(words.split()) else b"1")

    def _obey(self, words: list[str]) -> bool:
        if "wasm-sandboxer.service" in words:
            if "restart" in words or "--now" in words:
                self._stop()
            if {"start", "restart"} & set(words) and self._service is None:
                return self._start()
        return True

    def _start(self) -> bool:
        lines = dict(line.split("=", 1) for line in (self.path / UNIT).read_text().splitlines() if "=" in line)
        settings = self.path / lines["EnvironmentFile"].removeprefix("-/")
        found = [line.split("=", 1) for line in settings.read_text().splitlines() if "=" in line and line[0] != "#"]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "NOTIFY_SOCKET": "/run/notify.sock", **dict(found)}
        command = [word for word in shlex.split(lines["ExecStart"]) if word != "$OPTIONS"]
        ready = self.path / "run/notify.sock"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("ab") as log:
            notify.bind(str(ready))
            notify.settimeout(60)
            self._service = subprocess.Popen(
                [CHROOT, self.path, *command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                return b"READY=1" in notify.recv(4096)
            except TimeoutError:
                return False

    def _stop(self) -> None:
        if self._service is not None:
            self._service.send_signal(signal.SIGTERM)
            self._service.wait(60)
            self._service = None


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-R", "-l", folder], check=False)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
