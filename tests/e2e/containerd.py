"""A private containerd, fetched into ``.cache`` and run on paths of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import grpc
import psutil

from .cri import Cri

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".cache" / "containerd"
PACKAGING = ROOT / "packaging" / "containerd"
START_SECONDS = 30
SUBNET = "10.89.64.0/24"

CONFIG = """\
version = 3
root = "{folder}/root"
state = "{folder}/state"
imports = ["{folder}/conf.d/*.toml"]
disabled_plugins = [{disabled}]

[grpc]
  address = "{folder}/c.sock"

[debug]
  level = "debug"

[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  enable_cdi = false
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{tools}/usr/lib/cni"]
    conf_dir = "{folder}/cni"
    use_internal_loopback = true
"""

# What a node for these tests has no use for, and what would reach outside of the folder.
DISABLED = (
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.native",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
)


@cache
def tools(peers: bool = False) -> Path:
    """A folder laid out like / with containerd in it, fetched when first asked for; ``peers``: and crun."""
    options = ["--peers"] if peers else []
    subprocess.run([ROOT / "packaging" / "fetch-containerd.sh", *options, TOOLS], check=True)
    return TOOLS


class Containerd:
    """containerd on paths of its own. A context manager that leaves no process, mount or file behind."""

    def __init__(
        self, folder: Path, sandboxer: Path, *, extra: str = "", peers: bool = False, programs: Path | None = None
    ) -> None:
        """``programs`` is a folder laid out like / with a containerd in it.

        Without one it is $SANDBOXER_TEST_CONTAINERD (``releases``), or else Debian's, which is fetched.
        """
        self.folder = folder
        chosen = os.environ.get("SANDBOXER_TEST_CONTAINERD")
        self.tools = programs or (Path(chosen) if chosen else tools(peers))
        self.log = folder / "containerd.log"
        self.socket = folder / "c.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._kept = ExitStack()
        self._client: Cri | None = None
        for name in ("conf.d", "cni"):
            (folder / name).mkdir(parents=True)
        disabled = ", ".join(f'"{name}"' for name in DISABLED)
        config = CONFIG.format(folder=folder, tools=self.tools, disabled=disabled)
        (folder / "config.toml").write_text(config + extra)
        # The very file that users get, with its socket's path changed.
        fragment = (PACKAGING / "config.toml").read_text()
        assert "/run/wasm-sandboxer.sock" in fragment
        (folder / "conf.d" / "wasm.toml").write_text(fragment.replace("/run/wasm-sandboxer.sock", str(sandboxer)))
        pair = {"type": "ptp", "ipam": {"type": "host-local", "dataDir": f"{folder}/ips", "subnet": SUBNET}}
        network = {"cniVersion": "1.0.0", "name": f"e2e-{folder.name}", "plugins": [pair]}
        (folder / "cni" / "10-ptp.conflist").write_text(json.dumps(network))

    @property
    def cri(self) -> Cri:
        assert self._client is not None, "containerd does not run"
        return self._client

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until its CRI answers."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        environment = {
            **os.environ,
            "PATH": f"{PACKAGING}:{self.tools}/usr/bin:{self.tools}/usr/sbin:{os.environ['PATH']}",
        }
        with self.log.open("ab") as log:
            command = [str(self.tools / "usr/bin/containerd"), "--config", str(self.folder / "config.toml")]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)

    def wait_ready(self) -> None:
        """Wait until its CRI answers."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._client = Cri(self.socket)
            try:
                self._client.version()
                return
            except grpc.RpcError:
                self._client.close()
                self._client = None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = "\n".join(self.log.read_text().splitlines()[-30:])
                    raise AssertionError(f"containerd did not start:\n{tail}") from None
                time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM, patience: float = 30, kill: bool = False) -> None:
        """End containerd; what it runs goes on. ``kill``: by SIGKILL after ``patience`` seconds."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                if not kill:
                    raise
                self._process.kill()
                self._process.wait()
            self._process = None

    def ctr(self, *arguments: str | Path) -> str:
        """The output of ``ctr`` in Kubernetes' namespace."""
        command = [self.tools / "usr/bin/ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"ctr {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def __enter__(self) -> Containerd:
        self._kept.enter_context(_unchanged(Path("/proc/sys/net/ipv4/ip_forward")))  # the ptp plug-in sets it
        self._kept.enter_context(_absent("/run/containerd"))  # shims' sockets go there, whatever the state folder
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._client is not None:
                for container in self.cri.containers():
                    self.cri.remove(container.id)
                for pod in self.cri.pods():
                    self.cri.stop_pod(pod.id)
                    self.cri.remove_pod(pod.id)
        except grpc.RpcError:
            pass
        finally:
            self.stop()
            for process in processes_of(self.folder):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            for mount in reversed(mounts_below(self.folder)):
                subprocess.run(["umount", "-l", mount], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)
            self._kept.close()


# What is left behind


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that name the folder on their command line or work in it: shims, and what they run."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline", "cwd"]):
        places = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if process.pid != os.getpid() and any(str(folder) in place for place in places):
            with suppress(psutil.NoSuchProcess):  # it has ended since
                for each in (process, *process.children(recursive=True)):
                    found[each.pid] = each
    return list(found.values())


def mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder, outer ones first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    before = path.read_text()
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def _absent(folder: str) -> Iterator[None]:
    """Remove the folder afterwards, if it was not there before and is of no more use."""
    there = os.path.exists(folder)
    try:
        yield
    finally:
        for path in [] if there else [f"{folder}/s", f"{folder}/runc/k8s.io", f"{folder}/runc", folder]:
            try:
                os.rmdir(path)
            except OSError:
                pass
