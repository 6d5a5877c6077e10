"""Checks of a Debian package on a system: ``packages.py`` runs this in one, by the package's own interpreter.

Where no systemd runs, its part is played here: the unit's ExecStart, with its EnvironmentFile, told to end by SIGTERM.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, "/src")

from tests.harness.container import Container, Pod

UNIT = Path("/usr/lib/systemd/system/wasm-sandboxer.service")
DEFAULTS = Path("/etc/default/wasm-sandboxer")
OURS = ("wasm-sandboxer", "kuasar-wasm", "containerd-shim-wasm")
LOG = Path("/tmp/client/log")
NOTIFY = "/run/notify.sock"


class Service:
    """The unit's main process; named as the harness's daemon, for its clients."""

    listen = Path("/run/wasm-sandboxer.sock")
    task_socket = Path("/run/kuasar-wasm/task.sock")
    folder = Path("/tmp/client")

    def start(self) -> None:
        """Start it as the unit says, and wait until it is ready."""
        lines = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
        assert lines["EnvironmentFile"] == f"-{DEFAULTS}"
        settings = dict(line.split("=", 1) for line in DEFAULTS.read_text().splitlines() if line and line[0] != "#")
        command = []
        for word in shlex.split(lines["ExecStart"]):
            command += settings.get(word[1:], "").split() if word[0] == "$" else [word]
        Path(NOTIFY).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(NOTIFY)
            notify.settimeout(60)
            environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": NOTIFY, **settings}
            with LOG.open("ab") as log:  # a pipe would be the helpers', too, which live on
                self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            assert b"READY=1" in notify.recv(4096)

    def stop(self) -> str:
        """End it as systemd does with KillMode=process; what it said."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, LOG.read_text()
        return LOG.read_text()


def apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-qq", "--yes", *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def runs(container: Container) -> bool:
    return Path(f"/proc/{container.pid}").exists() and container.reconnect().status() == "RUNNING"


def main() -> None:
    new = sys.argv[1]
    service = Service()
    service.start()
    pod = Pod(service)  # type: ignore[arg-type]
    container = pod.with_wasm(Path("/sleep.wasm")).build().start()
    print("an instance runs:", container.pid, output("wasm-sandboxer", "ps"), sep="\n")

    before = output("dpkg-query", "-W", "-f", "${Version}", "wasm-sandboxer")
    apt("install", new)
    after = output("dpkg-query", "-W", "-f", "${Version}", "wasm-sandboxer")
    print("upgraded:", before, "to", after)
    assert before != after
    assert Path(f"/proc/{container.pid}").exists()
    service.stop()
    assert Path(f"/proc/{container.pid}").exists()  # KillMode=process
    service.start()
    assert runs(container)
    other = pod.with_wasm(Path("/sleep.wasm")).build().start()
    print("after the restart the first one runs, and another:", container.pid, other.pid)
    container.kill(signal.SIGKILL)
    assert container.wait() == 137

    output("wasm-sandboxer", "run", "-d", "/sleep.wasm")  # with a root file system that is mounted below --dir
    DEFAULTS.write_text(DEFAULTS.read_text() + "# changed by its administrator\n")
    apt("remove", "wasm-sandboxer")
    assert not Path(f"/proc/{other.pid}").exists()
    assert "Traceback" not in service.stop()
    assert DEFAULTS.exists()
    assert not Path("/usr/lib/wasm-sandboxer").exists()
    print("removed: nothing of it runs, its settings are there still")
    pod.close()


if __name__ == "__main__":
    main()
