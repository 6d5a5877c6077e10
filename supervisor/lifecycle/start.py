"""Starting a process: open everything its worker gets, hand it over, and close it again."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from workers.start_request import CGROUP, NETNS, RESOLVER, STDERR, STDIN, STDOUT, Descriptors

from ..aot.choice import Choice, EngineChoice
from ..aot.terms import EngineMode, export_to_initialize
from ..cgroups import Cgroup
from ..host import errors
from ..host.closer import Closer, close_all
from ..host.counters import Counters
from ..ipc.forkserver import ForkserverClient
from ..ipc.logger import LoggerClient
from ..ipc.relay import RelayClient
from ..ipc.reports import GroupGone, ModuleRefused
from ..model.container import Container
from ..model.process import Process
from ..model.registry import Registry
from ..model.sandbox import Sandbox
from ..oci import container_log, mount_tree, streams, wasi
from ..oci import spec as oci
from ..oci.netns import open_netns, process_of
from ..oci.rootfs import MountPlan
from ..seccomp.allowed import log_filter
from ..seccomp.library import SeccompMissing
from ..seccomp.profile import oci_filter
from ..state.store import Store
from .containers import ContainerManager, ContainerSource
from .launch import Launch

FEW_MOUNTS = 16
"""A start with more is put together in a thread, which takes 0.1 ms of its own."""


class _Opened:
    """All that is opened for one worker, until it has it."""

    __slots__ = ("_others", "context", "descriptors", "streams")

    def __init__(self) -> None:
        self.streams = streams.Streams()
        self.context = wasi.WasiContext()
        self.descriptors = Descriptors()
        self._others: list[int] = []

    def enter(self, cgroup: Cgroup | None) -> bool:
        """Put a control group's files in their role, in place of those opened before.

        Answers whether the group is to be recorded. Raises ``OSError`` and ``FailedPrecondition``.
        """
        entrances, changed = cgroup.open_entrances() if cgroup else ([], False)
        self._others += entrances
        self.descriptors.put(CGROUP, *entrances)
        return changed

    def join(self, netns: str, plan: MountPlan | None) -> None:
        """Put streams, the network namespace and the resolver's files in their roles.

        ``plan`` is given where the guest has a network. Raises ``OSError`` and ``FailedPrecondition``.
        """
        for role, fd in ((STDIN, self.streams.stdin), (STDOUT, self.streams.stdout), (STDERR, self.streams.stderr)):
            self.descriptors.put(role, fd)
        if netns:
            self._add(NETNS, open_netns(netns))
        if plan is not None and plan.pod:
            self._add(RESOLVER, mount_tree.build_resolver(plan))

    def _add(self, role: int, fd: int) -> None:
        self._others.append(fd)
        self.descriptors.add(role, fd)

    def close(self, closer: Closer | None) -> None:
        """Close everything; with a ``closer``, what takes long aside."""
        self.streams.close()
        self.context.close(closer)
        close_all(self._others, closer)


class Starter:
    """Turns created processes into workers."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        containers: ContainerManager,
        forkserver: ForkserverClient,
        relay: RelayClient,
        logger: LoggerClient,
        aot: EngineChoice | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._containers = containers
        self._forkserver = forkserver
        self._relay = relay
        self._logger = logger
        self._aot = aot
        self._counters = counters or Counters()
        self._closer = Closer()

    async def start(self, sandbox: Sandbox, container: Container, process: Process, hold_stdin: bool) -> int:
        """Run a process and return its pid. Raises a ``SandboxerError``, and leaves nothing open or running then."""
        source = self._containers.source(container)
        what = oci.parse_exec(self._store.exec_spec(process)) if process.exec_id else source.spec.process
        netns, network = self._network(sandbox, source.spec)
        await self._containers.volumes_answer(source.plan.root, source.plan.binds)
        opened = _Opened()
        pid = 0
        try:
            log = await self._open_log(container, process, source.spec)
            opened.streams = streams.open_streams(process.stdio, hold_stdin, log)
            opened.context = await _assemble(what, source.plan, container.init if process.exec_id else None)
            opened.context.memory_limit = self._memory_limit(container, source)
            asked = self._aot.asked(source.spec.annotations) if self._aot else EngineMode.WASMEDGE
            choice = await self._choose(opened.context, asked)
            opened.join(netns, source.plan if network else None)
            self._enter(container, opened)
            placement = wasi.Placement(
                descriptors=opened.descriptors,
                network=network,
                terminal=process.stdio.terminal,
                seccomp=await _filters(source.spec, opened.streams),
            )
            request = wasi.request(process.instance, what, opened.context, placement)
            if not process.exec_id:
                request.initialize = export_to_initialize(source.spec.annotations)
            for pump in opened.streams.pumps:
                await self._relay.pump(process.instance, pump)
                process.pumped = True
            if process.pumped and process.input_closed:
                await self._relay.close_input(process.instance)
            restricted = bool(source.spec.seccomp or what.rlimits)
            launch = Launch(
                self._forkserver, self._aot, self._counters, process, request, opened.context, asked, restricted
            )
            try:
                pid = await launch.run(choice)
            except GroupGone:  # another sandboxer of this host removed it, as nobody was in it
                self._enter(container, opened)
                pid = await launch.run(choice)
            return pid
        except ModuleRefused as error:
            raise InvalidArgument(f"{wasi.module_and_function(what.args[0])[0]}: {error}") from None
        except OSError as error:
            what_for = error.filename or "its descriptors"
            raise errors.for_errno(error, FailedPrecondition)(f"{what_for}: {error.strerror}") from None
        finally:
            opened.close(self._closer if pid else None)  # of a start that failed, nothing stays open after it
            if not pid:
                await self._logger.finish(process.instance)

    def _enter(self, container: Container, opened: _Opened) -> None:
        """Open the container's control groups for its worker. Raises ``OSError`` and ``FailedPrecondition``."""
        if opened.enter(container.cgroup):
            self._store.update_container(container)

    async def _choose(self, context: wasi.WasiContext, asked: EngineMode) -> Choice:
        """Choose what runs for the module, and have the context hold it. Raises ``OSError`` and ``SandboxerError``."""
        if self._aot is None or wasi.has_access_list(context.module):
            return Choice()
        try:
            choice = await self._aot.choose(context.module, asked)
        except InvalidArgument as error:
            raise ModuleRefused(str(error)) from None
        if choice.product is not None:
            context.run_product(choice.product.fd, choice.product.component)
        return choice

    async def _open_log(self, container: Container, process: Process, spec: oci.Spec) -> tuple[int, int] | None:
        """Begin the log that a container's annotations ask for, where no engine reads its output."""
        if process.exec_id or process.stdio.stdout or process.stdio.stderr:
            return None
        where = container_log.parse(spec.annotations, container.id)
        return await self._logger.start(process.instance, container.id, where) if where is not None else None

    def _memory_limit(self, container: Container, source: ContainerSource) -> int:
        """Bytes that a container may take by now; 0 is no limit."""
        if container.spec_limits or container.cgroup is None:
            return source.resources.memory_limit or 0
        return container.cgroup.memory_limit()

    def _network(self, sandbox: Sandbox, spec: oci.Spec) -> tuple[str, bool]:
        """Choose the network namespace to join ("" for none), and whether the guest has a network.

        Clients name the network of a sandbox that has no namespace of its own by the pid that was answered for it
        (iSulad: network_namespace.c; containerd: WithPodNamespaces). That pid was a supervisor's: it means the host's
        network, even after the pid was reused. Raises ``FailedPrecondition`` where it was answered for another sandbox.
        """
        if sandbox.netns:
            return sandbox.netns, True
        pid = process_of(spec.netns)
        if pid and (pid == os.getpid() or pid in sandbox.pids):
            return "", True
        if pid and any(pid in other.pids for other in self._registry.sandboxes.values()):
            raise FailedPrecondition(
                f"network namespace {spec.netns}: pid {pid} was not answered for sandbox {sandbox.id}, but for another"
            )
        return spec.netns, bool(spec.netns) or not spec.private_network


async def _assemble(what: oci.ProcessSpec, plan: MountPlan, init: Process | None) -> wasi.WasiContext:
    """Open module and folders; those of an exec are the running ``init`` process's.

    In a thread, where a guest may have filled a folder that is listed, and where copies of mounts are closed again.
    """
    if init is None and what.cwd == "/" and len(plan.binds) + len(plan.tmpfs) <= FEW_MOUNTS:
        return wasi.assemble(what, plan)
    beside = (init.pid, init.start_time) if init is not None else None
    return await asyncio.to_thread(wasi.assemble, what, plan, beside)


async def _filters(spec: oci.Spec, opened: streams.Streams) -> list[bytes]:
    """Make the seccomp programs of this start alone. Raises ``InvalidArgument``."""
    found = [await asyncio.to_thread(oci_filter, spec.seccomp)] if spec.seccomp else []
    if opened.logged:
        with suppress(SeccompMissing):  # then there are no filters at all, and that has been said
            found.append(log_filter())
    return found
