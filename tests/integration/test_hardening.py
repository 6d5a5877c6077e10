"""The unit's hardening leaves the daemon working: all of it that can be had without systemd."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Collected, Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from .test_systemd import UNIT


def setting(name: str) -> str:
    """Settings of the unit."""
    return next(line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}="))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One with the unit's capabilities and umask, and no more."""
    capabilities = ",".join(
        f"+{name.removeprefix('CAP_').lower()}" for name in setting("CapabilityBoundingSet").split()
    )
    hardened = Daemon("--require-confinement")
    hardened.prefix = ["sh", "-c", f'umask {setting("UMask")}; ulimit -c {setting("LimitCORE")}; exec "$@"', "sh"]
    hardened.prefix += ["setpriv", f"--bounding-set=-all,{capabilities}", "--inh-caps=-all"]
    with hardened as running:
        yield running


def test_all_that_containers_can_have(daemon: Daemon) -> None:
    pod = Pod(daemon)
    hosts = daemon.folder / "hosts"
    hosts.write_text("127.0.0.1 here\n")
    builder = pod.with_wasm("cat").fifos("stdin", "stdout").mount("/scratch", kind="tmpfs")
    builder.mount("/etc/deep/hosts", hosts, options=("ro",))  # the image has no such folder
    builder.process(user={"uid": 1000, "gid": 1000}, oomScoreAdj=500)
    builder.linux(resources={"pids": {"limit": 50}, "memory": {"limit": 64 << 20}}, maskedPaths=["/app.wasm.not"])
    for name in ("sleep", "exit"):
        shutil.copy(guest(name), builder.rootfs / f"{name}.wasm")
    container = builder.build()
    output = Collected(container.bundle / "stdout")
    container.start().add_exec("e", "/exit.wasm", "9", user={"uid": 7, "gid": 7}).start("e")
    assert container.wait("e") == 9
    container.connection.call("Pause", pb.PauseRequest(id=container.id))
    container.connection.call("Resume", pb.ResumeRequest(id=container.id))
    terminal = pod.with_wasm("cat").terminal().fifos("stdin", "stdout").streams(stderr="").build()
    screen = Collected(terminal.bundle / "stdout")
    terminal.start()
    daemon.kill()
    daemon.start()
    (container.bundle / "stdin").write_text("through")
    assert (container.reconnect().wait(), output.text()) == (0, "through")
    (terminal.bundle / "stdin").write_text("typed\n\x04")
    assert (terminal.reconnect().wait(), screen.text()) == (0, "typed\r\ntyped\r\n")
    killed = pod.with_wasm("sleep").process(user={"uid": 1000, "gid": 1000}).build().start()
    killed.kill(signal.SIGTERM)
    assert killed.wait() == 143
    pod.shutdown()
    pod.close()
    assert daemon.mounts() == []


def test_guests_get_the_usual_umask(daemon: Daemon) -> None:
    """Neither folders made for mounts nor files that guests make are closed by the unit's own umask."""
    pod = Pod(daemon)
    hosts = daemon.folder / "hosts"
    hosts.write_text("127.0.0.1 here\n")
    builder = pod.with_wasm("sleep").mount("/etc/deep/hosts", hosts).process(user={"uid": 1000, "gid": 1000})
    container = builder.build().start()
    assert [(builder.rootfs / name).stat().st_mode & 0o777 for name in ("etc", "etc/deep")] == [0o755, 0o755]
    status = Path(f"/proc/{container.pid}/status").read_text()
    assert "\nUmask:\t0022\n" in status
    pod.shutdown()
    pod.close()
