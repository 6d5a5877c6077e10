"""A node of its own: a private containerd and a private sandboxer on it, as a kubelet would find them."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from supervisor.commands.pack import Reference, pack_image
from tests.harness.daemon import Daemon
from tests.harness.guests import guest

from . import cri_pb2 as pb
from .cgroups import make_cgroup, remove_cgroups
from .containerd import Containerd
from .cri import NODE, Cri


@dataclass
class Pod:
    """A pod sandbox on a node, and its containers."""

    node: Node
    config: pb.PodSandboxConfig
    handler: str
    id: str = ""
    made: list[str] = field(default_factory=list)

    def create(
        self,
        image: str,
        *args: str,
        name: str = "",
        env: dict[str, str] | None = None,
        stdin: bool = False,
        tty: bool = False,
        memory: int = 0,
        mounts: tuple[pb.Mount, ...] = (),
    ) -> Container:
        """A container of a guest's image; ``args`` follow the module's name."""
        name = name or f"{image}-{len(self.made)}"
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image=self.node.image(image)),
            args=args,
            envs=[pb.KeyValue(key=key, value=value.encode()) for key, value in (env or {}).items()],
            log_path=f"{name}.log",
            stdin=stdin,
            stdin_once=stdin and not tty,
            tty=tty,
            mounts=mounts,
            linux=pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=memory)),
        )
        made = self.node.cri.create(self.id, config, self.config)
        self.made.append(made)
        return Container(self, made, Path(self.config.log_directory, f"{name}.log"))

    def run(self, image: str, *args: str, stdin: bool = False, tty: bool = False) -> Container:
        """Create and start."""
        container = self.create(image, *args, stdin=stdin, tty=tty)
        container.start()
        return container


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod."""

    pod: Pod
    id: str
    log: Path

    @property
    def cri(self) -> Cri:
        return self.pod.node.cri

    def start(self) -> None:
        self.cri.start(self.id)

    def wait(self, seconds: float = 60) -> pb.ContainerStatus:
        return self.cri.wait(self.id, seconds)

    def remove(self) -> None:
        self.cri.remove(self.id)

    def lines(self, stream: str = "") -> list[str]:
        """The log's lines, of both streams or one, without time, stream and tag (the CRI log format)."""
        if not self.log.exists():
            return []
        parts = [line.split(" ", 3) for line in self.log.read_text().splitlines()]
        return [text for _, name, _, text in parts if stream in ("", name)]

    def wait_for_line(self, line: str, seconds: float = 30) -> None:
        """Return when the guest has written this line: containerd's copy of the log lags behind the guest."""
        deadline = time.monotonic() + seconds
        while line not in self.lines():
            if time.monotonic() > deadline:
                status = self.cri.status(self.id)
                raise TimeoutError(f"no {line!r} in the log after {seconds} s: {self.lines()}\n{status}")
            time.sleep(0.005)


# containerd 2.3 pulls the image of a process that there is not: any local image will do (packaging/README.md).
PINNED = """
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "docker.io/library/sleep:e2e"
"""


class Node:
    """containerd and the sandboxer together. Everything lies in one short folder and goes with it."""

    def __init__(
        self, *, extra: str = "", peers: bool = False, options: tuple[str, ...] = (), programs: Path | None = None
    ) -> None:
        """``options`` are the sandboxer's; ``programs`` as for ``Containerd``."""
        self._programs = programs
        self._options = options
        self._extra = extra or PINNED
        self._peers = peers
        self._parts = ExitStack()
        self._images: dict[str, str] = {}
        self.cgroup = ""

    def __enter__(self) -> Node:
        with ExitStack() as parts:
            parts.callback(lambda: remove_cgroups(self.cgroup))  # last: processes have to be gone
            folder = Path(tempfile.mkdtemp(prefix="wasm-sb-"))
            events = f"{folder}/c/c.sock.ttrpc"
            self.sandboxer = parts.enter_context(Daemon("--events", events, *self._options, folder=folder))
            self.folder = folder / "c"
            self.logs = self.sandboxer.folder / "pods"
            self.cgroup = f"/wasm-e2e-{self.sandboxer.folder.name}"
            containerd = Containerd(
                self.folder, self.sandboxer.listen, extra=self._extra, peers=self._peers, programs=self._programs
            )
            self.containerd = parts.enter_context(containerd)
            self._parts = parts.pop_all()
        if self._extra == PINNED:
            self.image("sleep")
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts.close()

    @property
    def cri(self) -> Cri:
        return self.containerd.cri

    def image(self, name: str) -> str:
        """The image of a guest, packed and imported when first asked for."""
        if name not in self._images:
            archive = self.sandboxer.folder / f"{name}.tar"
            pack_image(guest(name), Reference.parse(f"{name}:e2e"), archive)
            self.load(archive, f"{name}:e2e")
            archive.unlink()
            self._images[name] = f"{name}:e2e"
        return self._images[name]

    def load(self, archive: Path, name: str, seconds: float = 10) -> str:
        """Import an image archive and return what ``ctr`` said; containerd tells its own CRI a moment later."""
        output = self.containerd.ctr("images", "import", archive)
        deadline = time.monotonic() + seconds
        while self.cri.image(name) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is imported, and CRI does not know it after {seconds} s")
            time.sleep(0.005)
        return output

    def pod_config(self, network: bool = False) -> pb.PodSandboxConfig:
        """A pod's configuration; ``network``: with a network namespace of its own."""
        uid = uuid.uuid4().hex[:12]
        options = pb.NamespaceOption() if network else NODE
        context = pb.LinuxSandboxSecurityContext(namespace_options=options)
        (self.logs / uid).mkdir(parents=True)
        make_cgroup(f"{self.cgroup}/pod{uid}")
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=f"pod-{uid}", uid=uid, namespace="default"),
            log_directory=str(self.logs / uid),
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"{self.cgroup}/pod{uid}", security_context=context),
        )

    def discard(self, container: str, seconds: float = 30) -> None:
        """Remove a container, whatever it is at. Where it ends at this very moment, containerd may say that it
        still runs (it has deleted the task, but not noted the end): the kubelet comes again, too."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.cri.remove(container)
            except grpc.RpcError as error:
                if "still running" not in str(error.details()) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @contextmanager
    def pod(self, handler: str = "wasm", *, network: bool = False) -> Iterator[Pod]:
        """A running pod, removed at the end with all its containers."""
        pod = Pod(self, self.pod_config(network), handler)
        pod.id = self.cri.run_pod(pod.config, handler)
        try:
            yield pod
        finally:
            for container in pod.made:
                self.discard(container)
            self.cri.stop_pod(pod.id)
            self.cri.remove_pod(pod.id)
