"""The interface that the servers call: the Sandbox API's Controller and the Task API, in plain values.

Times are nanoseconds since the epoch (0: not yet). Every method raises the errors of ``errors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system to mount. ``target`` is relative to the root it is mounted for; "" is that root."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stdio:
    """Paths of a process's streams: FIFOs or ``file://`` URLs.

    "" is an input at its end, or an output that nobody wants.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process: its status, 0 to 255 (128 + n after signal n), and when."""

    status: int
    at: int


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system and architecture in Go's spelling (GOOS, GOARCH)."""

    os: str
    architecture: str


@dataclass(frozen=True, slots=True)
class PodConfig:
    """A pod's names and network, as CRI's PodSandboxConfig has them."""

    hostname: str = ""
    servers: tuple[str, ...] = ()
    """Addresses of its DNS servers."""
    searches: tuple[str, ...] = ()
    """Domains in which names are looked up."""
    options: tuple[str, ...] = ()
    """The resolver's (resolv.conf(5))."""
    sysctls: dict[str, str] = field(default_factory=dict)
    host_network: bool = False
    user_namespace: bool = False
    """A user namespace of its own is asked for."""


@dataclass(frozen=True, slots=True)
class NewSandbox:
    """A sandbox as asked for. ``config`` is CRI's PodSandboxConfig, encoded, or empty; ``pod`` the same, decoded."""

    id: str
    netns: str = ""
    config: bytes = b""
    pod: PodConfig | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A sandbox as it is."""

    id: str
    ready: bool
    pid: int
    created_at: int
    exited_at: int
    labels: dict[str, str]
    task_socket: str
    """Path of the socket that serves the Task API to this sandbox's containers."""
    info: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Its state as every dialect spells it."""
        return "SANDBOX_READY" if self.ready else "SANDBOX_NOTREADY"


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of a container, or of all of a sandbox's, at ``at``. Memory in bytes, times in microseconds."""

    at: int
    memory: int = 0
    memory_limit: int = 0
    """0: none."""
    memory_peak: int = 0
    anon: int = 0
    file: int = 0
    inactive_file: int = 0
    page_faults: int = 0
    major_faults: int = 0
    oom_kills: int = 0
    swap: int = 0
    swap_limit: int = 0
    cpu: int = 0
    cpu_user: int = 0
    cpu_system: int = 0
    throttle_periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    processes: int = 0
    process_limit: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class TaskStatus(IntEnum):
    """The Task API's states, with their numbers on the wire (``containerd.v1.types``)."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@dataclass(frozen=True, slots=True)
class NewTask:
    """A container as Task Create asks for it; ``bundle`` is the path of its OCI bundle."""

    id: str
    bundle: str
    rootfs: tuple[Mount, ...] = ()
    stdio: Stdio = Stdio()


@dataclass(frozen=True, slots=True)
class NewContainer:
    """A container that is handed over before its Create; ``spec`` is its OCI spec, as JSON."""

    container_id: str
    spec: bytes
    stdio: Stdio = Stdio()
    rootfs: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class NewExec:
    """A process for a container; ``spec`` is the OCI process, as JSON."""

    container_id: str
    exec_id: str
    spec: bytes
    stdio: Stdio = Stdio()


Preparation = NewContainer | NewExec
"""A container or an exec that is handed over before it is created."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """The state of a container's init process, or of an exec in it."""

    id: str
    exec_id: str
    bundle: str
    pid: int
    status: TaskStatus
    stdio: Stdio
    exit: Exit | None


@dataclass(frozen=True, slots=True)
class Connection:
    """The process that serves a container, and the container's init process."""

    sandboxer_pid: int
    task_pid: int
    version: str


class SandboxApi(Protocol):
    """The Sandbox API. Clients call create, start, wait and status once each, in this order; then
    platform before every container; stop and shutdown at the end, more than once at times."""

    async def create(self, namespace: str, new: NewSandbox) -> None:
        """Make a sandbox; nothing runs yet."""

    async def start(self, namespace: str, sandbox_id: str) -> SandboxInfo:
        """Make it ready for containers."""

    async def platform(self, namespace: str, sandbox_id: str) -> Platform:
        """The platform of its containers: it decides the spec that the client writes."""

    async def stop(self, namespace: str, sandbox_id: str, timeout: int) -> None:
        """End its containers: SIGTERM, and SIGKILL after ``timeout`` seconds. Done where it is gone."""

    async def wait(self, namespace: str, sandbox_id: str) -> Exit:
        """Answer when it has stopped. Any number may wait."""

    async def status(self, namespace: str, sandbox_id: str, verbose: bool) -> SandboxInfo:
        """Its state."""

    async def shutdown(self, namespace: str, sandbox_id: str) -> None:
        """Stop it if need be, and forget it and all its containers. Done where it is gone."""

    async def metrics(self, namespace: str, sandbox_id: str) -> Usage:
        """Usage of all its containers together."""

    async def update(
        self,
        namespace: str,
        sandbox_id: str,
        labels: dict[str, str] | None,
        prepared: Sequence[Preparation] | None,
    ) -> None:
        """Replace its labels, and the whole list of what is prepared in it, where given."""

    async def prepare(self, namespace: str, sandbox_id: str, new: Preparation) -> str:
        """Take a container's or an exec's spec, root file system and streams; the path of the container's bundle."""

    async def purge(self, namespace: str, sandbox_id: str, container_id: str, exec_id: str) -> None:
        """Undo ``prepare``."""

    async def update_resources(self, namespace: str, sandbox_id: str, container_id: str, resources: bytes) -> None:
        """Change the limits of a container. ``resources`` is OCI's LinuxResources as JSON."""


class TaskApi(Protocol):
    """The Task API: the containers of all sandboxes. ``exec_id`` "" is the container's init process."""

    async def create(self, namespace: str, new: NewTask) -> int:
        """Prepare a container; its pid, which is 0 until it is started."""

    async def start(self, namespace: str, task_id: str, exec_id: str, hold_stdin: bool) -> int:
        """Run it; the pid, once its module is instantiated. ``hold_stdin``: its input does not end with its writers."""

    async def wait(self, namespace: str, task_id: str, exec_id: str) -> Exit:
        """Answer when the process has ended, or at once if it has."""

    async def state(self, namespace: str, task_id: str, exec_id: str) -> TaskInfo:
        """Its state."""

    async def kill(self, namespace: str, task_id: str, exec_id: str, signal: int, everyone: bool) -> None:
        """Send a signal to the process, or to all of the container's."""

    async def delete(self, namespace: str, task_id: str, exec_id: str) -> TaskInfo:
        """Forget a process that does not run; with the init process, the container."""

    async def pids(self, namespace: str, task_id: str) -> Sequence[int]:
        """The processes of a container."""

    async def connect(self, namespace: str, task_id: str) -> Connection:
        """The processes that serve it."""

    async def stats(self, namespace: str, task_id: str) -> Usage:
        """Its usage."""

    async def close_io(self, namespace: str, task_id: str, exec_id: str) -> None:
        """End its standard input, after what was written to it."""

    async def exec(self, namespace: str, new: NewExec) -> None:
        """Prepare a process more in a running container."""

    async def resize_pty(self, namespace: str, task_id: str, exec_id: str, width: int, height: int) -> None:
        """Set the size of its terminal, in characters."""

    async def pause(self, namespace: str, task_id: str) -> None:
        """Freeze all processes of a container."""

    async def resume(self, namespace: str, task_id: str) -> None:
        """Let them go on."""

    async def update(self, namespace: str, task_id: str, resources: bytes) -> None:
        """Change its limits. ``resources`` is OCI's LinuxResources as JSON."""
