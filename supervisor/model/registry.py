"""Index of everything that exists on this node."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sandbox_api.errors import AlreadyExists, InvalidArgument, NotFound

from .container import Container
from .process import Process
from .sandbox import Sandbox

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_id(what: str, value: str) -> str:
    """Check that an id can be a part of a path. Raises ``InvalidArgument``."""
    if not _ID.fullmatch(value):
        raise InvalidArgument(
            f"{what} {value[:140]!r}: an id is 1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return value


@dataclass(slots=True)
class Registry:
    """Sandboxes and containers by namespace and id, processes by instance."""

    sandboxes: dict[tuple[str, str], Sandbox] = field(default_factory=dict)
    containers: dict[tuple[str, str], Container] = field(default_factory=dict)
    processes: dict[int, tuple[Container, Process]] = field(default_factory=dict)

    def sandbox(self, namespace: str, sandbox_id: str) -> Sandbox:
        """Raises ``NotFound``."""
        try:
            return self.sandboxes[namespace, sandbox_id]
        except KeyError:
            raise NotFound(f"sandbox {sandbox_id!r}: no such sandbox in namespace {namespace}") from None

    def container(self, namespace: str, container_id: str) -> Container:
        """Raises ``NotFound``."""
        try:
            return self.containers[namespace, container_id]
        except KeyError:
            raise NotFound(f"container {container_id!r}: no such container in namespace {namespace}") from None

    def process(self, namespace: str, container_id: str, exec_id: str) -> tuple[Container, Process]:
        """A container with its init process (exec_id ""), or with an exec. Raises ``NotFound``."""
        container = self.container(namespace, container_id)
        if not exec_id:
            return container, container.init
        process = (container.execs or {}).get(exec_id)
        if process is None:
            raise NotFound(f"container {container_id}: there is no exec {exec_id!r} in it")
        return container, process

    def still_there(self, container: Container, process: Process | None = None) -> None:
        """See that neither was deleted, and its id taken again, while its lock was waited for. Raises ``NotFound``."""
        if self.containers.get((container.namespace, container.id)) is not container:
            raise NotFound(f"container {container.id}: it was deleted meanwhile")
        if process is not None and self.processes.get(process.instance, (None, None))[1] is not process:
            raise NotFound(f"container {process.name}: it was deleted meanwhile")

    def new_sandbox(self, namespace: str, sandbox_id: str) -> None:
        """Raises ``AlreadyExists`` or ``InvalidArgument`` where the id cannot be taken."""
        check_id("namespace", namespace)
        check_id("sandbox", sandbox_id)
        if (namespace, sandbox_id) in self.sandboxes:
            raise AlreadyExists(f"sandbox {sandbox_id}: there is one already")

    def new_container(self, namespace: str, container_id: str) -> None:
        """Raises ``AlreadyExists`` or ``InvalidArgument`` where the id cannot be taken."""
        check_id("namespace", namespace)
        check_id("container", container_id)
        if (namespace, container_id) in self.containers:
            raise AlreadyExists(f"container {container_id}: there is one already")

    def add(self, sandbox: Sandbox, container: Container) -> None:
        """Add a container of this sandbox, with its processes."""
        self.containers[container.namespace, container.id] = container
        sandbox.containers[container.id] = container
        for process in container.processes():
            self.processes[process.instance] = (container, process)

    def add_exec(self, container: Container, process: Process) -> None:
        """Add an exec to a container."""
        if container.execs is None:
            container.execs = {}
        container.execs[process.exec_id] = process
        self.processes[process.instance] = (container, process)

    def remove_exec(self, container: Container, process: Process) -> None:
        """Forget an exec."""
        if container.execs is not None:
            container.execs.pop(process.exec_id, None)
        self.processes.pop(process.instance, None)

    def remove(self, container: Container) -> None:
        """Forget a container and its processes."""
        del self.containers[container.namespace, container.id]
        sandbox = self.sandboxes.get((container.namespace, container.sandbox_id))
        if sandbox is not None:
            sandbox.containers.pop(container.id, None)
        for process in container.processes():
            self.processes.pop(process.instance, None)
