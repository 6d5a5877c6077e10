"""Containers: their records, mounts and control groups, made and undone as one."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from sandbox_api.errors import FailedPrecondition, SandboxerError
from sandbox_api.interface import NewContainer, NewTask, Stdio, Usage

from ..aot.choice import EngineChoice
from ..aot.terms import export_to_initialize
from ..cgroups import Cgroup, Hierarchy, Resources
from ..host.counters import Counters
from ..host.volumes import Volumes
from ..model.container import Container
from ..model.prepared import Prepared
from ..model.process import Process, ProcessState
from ..model.registry import Registry
from ..model.sandbox import Sandbox, SandboxState
from ..oci import bundle, mount_tree, pod_files, rootfs, streams, wasi
from ..oci import spec as oci
from ..oci.spec import Bind
from ..state.retry import until_recorded
from ..state.store import Made, Recorded, Store, StoreFailed
from . import usage
from .module_images import ModuleImages

log = logging.getLogger(__name__)

P = TypeVar("P")

LEAVE_SECONDS = 30.0
"""Seconds in which the last process has left a container's control group; it takes milliseconds."""
_REMOVALS = 4
"""What guests left is unmounted and removed by so many threads."""
_REMEMBERED = 64
"""Specs of the newest containers kept in memory: most are started, and many deleted, soon after."""
_LONGEST_REMEMBERED = 64 << 10  # bytes of a config.json


@dataclass(frozen=True, slots=True)
class ContainerSource:
    """A container's spec, its resources and mounts, parsed."""

    spec: oci.Spec
    resources: Resources
    plan: rootfs.MountPlan


class ContainerManager:
    """Makes and removes containers."""

    def __init__(
        self,
        folder: str,
        registry: Registry,
        store: Store,
        hierarchy: Hierarchy,
        aot: EngineChoice | None = None,
        counters: Counters | None = None,
        images: ModuleImages | None = None,
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._store = store
        self._hierarchy = hierarchy
        self._aot = aot
        self._images = images
        self._stages = (counters or Counters()).stages
        self._removing = ThreadPoolExecutor(_REMOVALS, "removing")
        self._volumes = Volumes()
        self._unmade: dict[tuple[str, str], Container] = {}  # failed, and still on record: the disk is full
        mount_tree.prepare(f"{folder}/mounting")
        self._remembered: OrderedDict[int, ContainerSource] = OrderedDict()  # by instance of the init process

    async def make(self, namespace: str, new: NewTask) -> Container:
        """Prepare a container in a ready sandbox: record it, then mount what it needs and make its control group.

        Raises a ``SandboxerError``, and leaves nothing behind then.
        """
        with self._stages["spec"].time():
            config = bundle.read_config(new.bundle)
            spec = bundle.with_sources(new.bundle, oci.parse(config))
        await self.volumes_answer(bundle.root(new.bundle, spec.root), spec.binds)
        self._registry.new_container(namespace, new.id)  # or was it taken meanwhile?
        prepared = self._store.prepared_container(namespace, new.id)
        sandbox = self._sandbox_of(namespace, new, spec, prepared)
        sandbox.require("create a container in it", SandboxState.READY)
        if spec.added_capabilities:
            names = " ".join(spec.added_capabilities)[:200]
            log.warning("%s asks for %s: a WASM guest has no use for any, and none is ever given", new.id, names)
        stdio = _stdio(new.stdio, prepared, spec.process.terminal)
        streams.check(stdio)
        resources = Resources.parse(spec.resources)
        home = f"{self._folder}/mounting"
        folder = f"{self._folder}/containers/{namespace}/{new.id}"
        pod = pod_files.place(self._folder, namespace, sandbox.id)
        pod = pod if os.path.isdir(pod) else ""  # only the engine's CRI has them made
        if prepared and prepared.new.rootfs and not new.rootfs:
            # The client handed its root file system over before: it is mounted in our own bundle, whichever is named.
            plan = rootfs.plan(spec, prepared.root, prepared.new.rootfs, folder, home, pod)
        else:
            plan = rootfs.plan(spec, bundle.root(new.bundle, spec.root), new.rootfs, folder, home, pod)
        container = Container(namespace, new.id, sandbox.id, new.bundle, Process(0, new.id, "", stdio))
        group = spec.cgroups_path or (_default_path(container) if resources.limited else "")
        planned = self._hierarchy.plan(group, resources) if group else ""
        state = Made.DONE if plan.empty and not group else Made.UNFINISHED
        if left := self._unmade.get((namespace, new.id)):
            self._remove_unmade(left)
        self._store.add_container(container, Recorded(config, plan), planned, state)
        try:
            with self._stages["mounts"].time():
                rootfs.mount(plan)
            if group:
                with self._stages["group"].time():
                    container.cgroup = self._hierarchy.create(group, resources)
            if state is not Made.DONE:
                self._store.update_container(container)
            container.spec_limits = True
        except BaseException:
            if container.cgroup is not None:
                container.cgroup.delete()
            rootfs.unmount(plan)
            self._forget(container)
            raise
        self._registry.add(sandbox, container)
        if len(config) <= _LONGEST_REMEMBERED:
            self._remembered[container.init.instance] = ContainerSource(spec, resources, plan)
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        self._foresee(spec, plan, resources)
        return container

    def _forget(self, container: Container) -> None:
        """Remove the record of a container that was not made; on a full disk as soon as there is room."""
        self._unmade[container.namespace, container.id] = container
        failed = f"{container.id} was not made, and its record cannot be removed"
        until_recorded(partial(self._remove_unmade, container), failed)

    def _remove_unmade(self, container: Container) -> None:
        """Remove the record, unless another Create of the same id has. Raises ``StoreFailed``."""
        key = container.namespace, container.id
        if self._unmade.get(key) is container:
            self._store.remove_container(container)
            del self._unmade[key]

    def _foresee(self, spec: oci.Spec, plan: rootfs.MountPlan, resources: Resources) -> None:
        """Have the module compiled before its start, or, where it is, an image of it loaded made."""
        if self._aot is None or not self._aot.active:
            return
        try:
            asked = self._aot.asked(spec.annotations)
            initialize = export_to_initialize(spec.annotations)
            module = wasi.foresee(spec.process, plan)
        except SandboxerError:  # Start will say so
            return
        try:
            self._aot.seen(module, asked)
            if self._images is not None and not initialize:
                _, function = wasi.module_and_function(spec.process.args[0])
                self._images.foresee(module, asked, function, wasi.max_pages(resources.memory_limit or 0))
        except OSError as error:  # out of descriptors: the container is there all the same, and its start tries again
            log.debug("a module is not looked at before its start: %s", error)
        finally:
            os.close(module)

    async def volumes_answer(self, root: str, binds: Sequence[Bind]) -> None:
        """See that the file systems of a container answer, before the event loop looks at them.

        The root's is asked where there are volumes, and taken for the host's own where there are none. Raises as
        ``Volumes.answer``.
        """
        if binds:
            await self._volumes.answer([root, *(bind.source for bind in binds)])

    def source(self, container: Container) -> ContainerSource:
        """Return the container's spec and mounts, from memory or the record."""
        remembered = self._remembered.get(container.init.instance)
        if remembered is not None:
            return remembered
        recorded = self._store.recorded(container)
        spec = oci.parse(recorded.config)
        return ContainerSource(spec, Resources.parse(spec.resources), recorded.plan)

    def unmake(self, container: Container) -> None:
        """Undo a ``make`` that a dead supervisor left half done."""
        recorded = self._store.recorded(container)
        if container.cgroup is not None:
            container.cgroup.delete()
        rootfs.unmount(recorded.plan)
        self._store.remove_container(container)

    async def aside(self, work: Callable[[P], None], argument: P) -> None:
        """Do what takes as long as what a guest left is large, in threads that no start waits for."""
        await asyncio.get_running_loop().run_in_executor(self._removing, work, argument)

    async def remove(self, container: Container) -> None:
        """Undo ``make``. The container's processes have ended, or never ran.

        Raises ``FailedPrecondition`` where others stay in its control group: it can be removed again.
        """
        cgroup = container.cgroup
        deadline = time.monotonic() + LEAVE_SECONDS
        while cgroup is not None and not cgroup.delete():
            if time.monotonic() >= deadline:
                raise FailedPrecondition(
                    f"{cgroup}: processes or groups that are not the container's are in it: move them, and try again"
                )
            await asyncio.sleep(0.005)  # a reaped process leaves its group a little later
        remembered = self._remembered.get(container.init.instance)
        plan = remembered.plan if remembered else self._store.recorded(container).plan
        if not plan.empty:  # takes as long as what the guest left there is large
            await self.aside(rootfs.unmount, plan)
        self._store.remove_container(container)
        self._remembered.pop(container.init.instance, None)
        self._registry.remove(container)
        for process in container.processes():
            process.forget()

    def usage(self, container: Container) -> Usage:
        """Measure a container: by its control group, or else by its processes in /proc."""
        counted = container.cgroup.usage(time.time_ns()) if container.cgroup else None
        if counted is not None:
            return counted
        return usage.of_processes([process.pid for process in container.alive()], time.time_ns())

    def update(self, container: Container, resources: Resources) -> None:
        """Change the limits of a container, running or not."""
        cgroup = self._cgroup(container)
        container.spec_limits = False
        self._store.change_container(container, cgroup.plan_update(resources))
        cgroup.update(resources, [process.pid for process in container.alive()])
        self._store.update_container(container)

    def own_cgroup(self, container: Container) -> Cgroup:
        """A control group that no other container is in, with its processes in it; ``record_cgroup`` after its use."""
        cgroup = self._cgroup(container)
        self._store.change_container(container, cgroup.plan_own())
        cgroup.ensure_own([process.pid for process in container.alive()])
        return cgroup

    def record_cgroup(self, container: Container) -> None:
        """Record that the control group matches the recorded states of the processes."""
        try:
            self._store.update_container(container)
        except StoreFailed as error:  # then the next supervisor looks for itself
            log.warning("container %s: %s", container.id, error)

    def repair(self, container: Container) -> None:
        """Finish or undo a control group change that a dead supervisor left half done."""
        if container.cgroup is not None:
            alive = container.alive()
            paused = container.cgroup.repair(
                [process.pid for process in alive], any(process.state is ProcessState.PAUSED for process in alive)
            )
            state = ProcessState.PAUSED if paused else ProcessState.RUNNING
            self._store.update_processes([replace(process, state=state) for process in alive])
            for process in alive:
                process.state = state
        self._store.update_container(container)

    def _cgroup(self, container: Container) -> Cgroup:
        if container.cgroup is None:
            path = _default_path(container)
            self._store.change_container(container, self._hierarchy.plan(path, Resources()))
            container.cgroup = self._hierarchy.create(path, Resources())
        return container.cgroup

    def _sandbox_of(
        self, namespace: str, new: NewTask, spec: oci.Spec, prepared: Prepared[NewContainer] | None
    ) -> Sandbox:
        """Find the sandbox of a new container. The request does not name it; its preparation or bundle does."""
        name = prepared.sandbox_id if prepared else bundle.sandbox_id(new.bundle, spec.annotations)
        if name:
            return self._registry.sandbox(namespace, name)
        here = [sandbox for (where, _), sandbox in self._registry.sandboxes.items() if where == namespace]
        if len(here) != 1:
            raise FailedPrecondition(
                f"which of the {len(here)} sandboxes of namespace {namespace} is it for? "
                "Annotate config.json with io.kubernetes.cri.sandbox-id"
            )
        return here[0]


def _default_path(container: Container) -> str:
    return f"/wasm-sandboxer/{container.namespace}/{container.id}"


def _stdio(asked: Stdio, prepared: Prepared[NewContainer] | None, terminal: bool) -> Stdio:
    """The request's streams, or else the preparation's."""
    if prepared and not (asked.stdin or asked.stdout or asked.stderr):
        asked = prepared.new.stdio
    return Stdio(asked.stdin, asked.stdout, asked.stderr, asked.terminal or terminal)
