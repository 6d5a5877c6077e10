"""A control plane and one node, in the namespaces that ``make k8s`` made for them.

Nothing here is configured as a production cluster would be: tokens are static, everybody may do everything, and all
of it lives in one folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from supervisor.commands.pack import Folder, Reference, pack_image
from supervisor.host.sockets import CONTAINERD_EVENTS
from tests.e2e.cgroups import remove_cgroups
from tests.e2e.compare import CRUN_CONFIG, PAUSE, UNIFIED, pause_archive
from tests.e2e.containerd import TOOLS, Containerd, mounts_below
from tests.harness.daemon import Daemon
from tests.harness.guests import guest

from .kubectl import Kubectl

API, ETCD, NODE_ADDRESS, DNS_ADDRESS = "https://127.0.0.1:6443", "http://127.0.0.1:2379", "10.88.0.1", "10.88.0.1"
NODE = "node"
EVENTS = f'[ttrpc]\n  address = "{CONTAINERD_EVENTS}"\n'
START_SECONDS = 90

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": API, "insecure-skip-tls-verify": True}}],
    "users": [{"name": "u", "user": {"token": "wasm"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "c",
}


class Cluster:
    """etcd, the API server, its controllers, and a kubelet with containerd and the sandboxer under it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        self.kubectl = Kubectl(str(programs / "usr/bin/kubectl"), folder / "kubeconfig")
        self.cgroup = f"/wasm-k8s-{folder.name}"
        self._parts = ExitStack()
        self._images: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        with ExitStack() as parts:
            parts.callback(lambda: remove_cgroups(self.cgroup))
            parts.callback(self._unmount)
            parts.callback(self._stop_all)
            self._keys()
            self._control_plane()
            self.sandboxer = parts.enter_context(Daemon())
            peers = CRUN_CONFIG.format(crun=TOOLS / "usr/bin/crun", pause=PAUSE)
            self.containerd = parts.enter_context(
                Containerd(self.folder / "c", self.sandboxer.listen, extra=EVENTS + peers, programs=self.programs)
            )
            self.start_kubelet()
            self.eventually(lambda: "True" in self.node_ready(), "the node is ready")
            self.runtime_class()
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts.close()

    def image(self, guest_name: str) -> None:
        """Make a guest's image known to the node, if it is not yet; pods call it ``NAME:e2e``.

        Every image has ``/bin/files.wasm`` and ``/bin/exit.wasm``, for probes, hooks and exec.
        """
        self.import_image(guest_name, f"{guest_name}:e2e")

    def import_image(self, guest_name: str, name: str) -> None:
        """The same by a name of the caller's."""
        if name in self._images:
            return
        tools = self.folder / "bin"
        if not tools.exists():
            tools.mkdir()
            for tool in ("files", "exit"):
                shutil.copy(guest(tool), tools)
        archive = self.folder / "image.tar"
        folders = [Folder(tools, PurePosixPath("/bin"))]
        pack_image(guest(guest_name), Reference.parse(name), archive, folders=folders)
        self.containerd.ctr("images", "import", archive)
        archive.unlink()
        self._images.add(name)

    def load_pause(self) -> None:
        """Have the image that pods of other runtimes begin with."""
        if PAUSE not in self._images:
            pause_archive(self.folder / "pause.tar")
            self.containerd.ctr("images", "import", self.folder / "pause.tar")
            self._images.add(PAUSE)

    def log(self, name: str) -> str:
        """The log of one of the cluster's programs."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def spawn(self, name: str, *arguments: str, program: str = "") -> None:
        """Start a program of the cluster, its output in a log of its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [str(self.programs / "usr/bin" / (program or name)), *arguments]
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one of the cluster's programs."""
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait(60)

    def keep_kubelet(self) -> bool:
        """Start the kubelet again where it has ended, as its unit does: it gives up where no engine answers."""
        ended = self._processes["kubelet"].poll() is not None
        if ended:
            self.start_kubelet()
        return not ended

    def eventually(self, condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
        """Return when the condition holds. A program of the cluster that ended, or too long a wait, is a failure."""
        deadline = time.monotonic() + seconds
        while not condition():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    pytest.fail(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"{name}: {self.log(name)[-1500:]}" for name in self._processes)
                pytest.fail(f"not within {seconds} s: {what}\n{logs}")
            time.sleep(0.2)

    def start_kubelet(self) -> None:
        """Start the kubelet, as at boot."""
        config: dict[str, Any] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "podLogsDir": f"{self.folder}/pods",
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "maxPods": 500,
            "registryPullQPS": 0,
            "syncFrequency": "1s",
            "fileCheckFrequency": "1s",
            "volumePluginDir": f"{self.folder}/plugins",
            "resolvConf": f"{self.folder}/resolv.conf",
        }
        (self.folder / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")
        (self.folder / "kubelet.json").write_text(json.dumps(config))
        _make_group(self.cgroup)
        self.spawn(
            "kubelet",
            f"--config={self.folder}/kubelet.json",
            f"--kubeconfig={self.folder}/kubeconfig",
            f"--root-dir={self.folder}/kubelet",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
            "--v=2",
        )

    def _control_plane(self) -> None:
        folder = self.folder
        (folder / "tokens.csv").write_text('wasm,admin,1,"system:masters"\n')
        (folder / "kubeconfig").write_text(json.dumps(KUBECONFIG))
        self.spawn(
            "etcd",
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        )
        self.spawn(
            "kube-apiserver",
            f"--etcd-servers={ETCD}",
            "--bind-address=127.0.0.1",
            "--secure-port=6443",
            f"--cert-dir={folder}/certs",
            f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/sa.key",
            f"--service-account-signing-key-file={folder}/sa.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.eventually(lambda: self.kubectl.try_run("get", "--raw", "/readyz") == "ok", "the API server is ready")
        common = (f"--kubeconfig={folder}/kubeconfig", "--leader-elect=false")
        self.spawn(
            "kube-controller-manager",
            *common,
            f"--service-account-private-key-file={folder}/sa.key",
            f"--root-ca-file={folder}/certs/apiserver.crt",
            "--secure-port=0",
        )
        self.spawn("kube-scheduler", *common, "--secure-port=0")

    def _keys(self) -> None:
        command = ["openssl", "genrsa", "-out", str(self.folder / "sa.key"), "2048"]
        subprocess.run(command, check=True, capture_output=True)

    def runtime_class(self) -> None:
        """Make the RuntimeClass of the tests: any node will do."""
        runtime = {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "wasm"},
            "handler": "wasm",
        }
        self.kubectl.apply(runtime)
        self.eventually(
            lambda: "default" in self.kubectl.try_run("get", "serviceaccounts", "-o", "name"),
            "there is a service account",
        )

    def node_ready(self) -> str:
        """The status of the node's condition Ready, such as ``True``."""
        path = "{.status.conditions[?(@.type=='Ready')].status}"
        return self.kubectl.try_run("get", "node", NODE, "-o", f"jsonpath={path}")

    def _unmount(self) -> None:
        for mount in reversed(mounts_below(self.folder)):  # the kubelet binds its own folder, and pods' volumes
            subprocess.run(["umount", "-l", mount], check=False)

    def _stop_all(self) -> None:
        for name in reversed(list(self._processes)):
            self.stop(name, signal.SIGKILL if name == "etcd" else signal.SIGTERM)


def _make_group(name: str) -> None:
    """Make the kubelet's control group in every hierarchy, as it wants its root to be there already."""
    root = Path("/sys/fs/cgroup")
    hierarchies = (
        [root] if (root / "cgroup.controllers").exists() else [path.parent for path in root.glob("*/cgroup.procs")]
    )
    for hierarchy in hierarchies:
        group = hierarchy / name.strip("/")
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1: an empty set takes no process
            if (group / setting).exists() and not (group / setting).read_text().strip():
                (group / setting).write_text((hierarchy / setting).read_text())
        if hierarchy == root:
            (hierarchy / "cgroup.subtree_control").write_text("+cpu +cpuset +memory +pids")


def enter_node() -> None:
    """Give the namespaces of this test run an address and folders of their own. Refuses where it is not in such."""
    if os.environ.get("WASM_SANDBOXER_K8S") != "1":
        pytest.exit("run these tests by make k8s: a kubelet wants namespaces of its own", returncode=2)
    for command in (
        "ip link set lo up",
        "ip link add eth0 type veth peer name uplink",
        f"ip address add {NODE_ADDRESS}/16 dev eth0",
        "ip link set uplink up",
        "ip link set eth0 up",
        f"ip route add default via {NODE_ADDRESS}",
        "mount -t tmpfs -o mode=755 run /run",
    ):
        subprocess.run(command.split(), check=True)
    if UNIFIED.is_mount():  # empty, beside control groups of version 1; runc and crun would choose it
        subprocess.run(["umount", UNIFIED], check=True)
