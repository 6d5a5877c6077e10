"""Starting a process: open everything its worker gets, hand it over, and close it again."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from workers.start_request import (
    CGROUP,
    MODULE,
    NETNS,
    RESOLVER,
    STDERR,
    STDIN,
    STDOUT,
    WASMEDGE,
    WASMTIME,
    Descriptors,
    StartRequest,
)

from ..aot.choice import Choice, EngineChoice
from ..aot.policy import Product
from ..aot.terms import EngineMode
from ..host import errors
from ..host.closer import Closer
from ..host.counters import Counters
from ..ipc.forkserver import ForkserverClient
from ..ipc.logger import LoggerClient
from ..ipc.relay import RelayClient
from ..ipc.reports import ModuleRefused
from ..model.container import Container
from ..model.process import Process
from ..model.registry import Registry
from ..model.sandbox import Sandbox
from ..oci import container_log, mount_tree, streams, wasi
from ..oci import spec as oci
from ..oci.netns import open_netns, process_of
from ..seccomp.allowed import log_filter
from ..seccomp.library import SeccompMissing
from ..seccomp.profile import oci_filter
from ..state.store import Store
from .containers import ContainerManager, ContainerSource

IMAGED = "+image"
"""Behind the tier of a process whose module was mapped from an image of it loaded."""

FEW_MOUNTS = 16
"""A start with more is put together in a thread, which takes 0.1 ms of its own."""


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
        spec = source.spec
        what = oci.parse_exec(self._store.exec_spec(process)) if process.exec_id else spec.process
        netns, network = self._network(sandbox, spec)
        opened = streams.Streams()
        context = wasi.WasiContext()
        opened_here: list[int] = []
        descriptors = Descriptors()
        pid = 0
        try:
            opened = streams.open_streams(process.stdio, hold_stdin, await self._open_log(container, process, spec))
            if what.cwd == "/" and len(source.plan.binds) + len(source.plan.tmpfs) <= FEW_MOUNTS:
                context = wasi.assemble(what, source.plan)
            else:  # folders are made, and the root's top folder is listed: a guest may have filled that
                context = await asyncio.to_thread(wasi.assemble, what, source.plan)
            choice = Choice()
            asked = self._aot.asked(spec.annotations) if self._aot else EngineMode.WASMEDGE
            if self._aot and not wasi.has_access_list(context.module):
                try:
                    choice = await self._aot.choose(context.module, asked)
                except InvalidArgument as error:
                    raise ModuleRefused(str(error)) from None
                if choice.product is not None:
                    context.run_product(choice.product.fd, choice.product.component)
            for role, fd in ((STDIN, opened.stdin), (STDOUT, opened.stdout), (STDERR, opened.stderr)):
                descriptors.put(role, fd)
            for path in container.cgroup.entrances() if container.cgroup else ():
                opened_here.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                descriptors.add(CGROUP, opened_here[-1])
            if netns:
                opened_here.append(open_netns(netns))
                descriptors.put(NETNS, opened_here[-1])
            if network and source.plan.pod:
                opened_here.append(mount_tree.build_resolver(source.plan))
                descriptors.put(RESOLVER, opened_here[-1])
            seccomp = [await asyncio.to_thread(oci_filter, spec.seccomp)] if spec.seccomp else []
            if opened.logged:
                with suppress(SeccompMissing):  # then there are no filters at all, and that has been said
                    seccomp.append(log_filter())
            context.memory_limit = self._memory_limit(container, source)
            placement = wasi.Placement(
                descriptors=descriptors,
                network=network,
                terminal=process.stdio.terminal,
                seccomp=seccomp,
            )
            request = wasi.request(process.instance, what, context, placement)
            for pump in opened.pumps:
                await self._relay.pump(process.instance, pump)
                process.pumped = True
            try:
                pid = await self._run(request, process, choice)
            except ModuleRefused as error:
                pid = await self._run_otherwise(request, process, context, asked, choice, error)
            return pid
        except ModuleRefused as error:
            raise InvalidArgument(f"{wasi.module_and_function(what.args[0])[0]}: {error}") from None
        except OSError as error:
            what_for = error.filename or "its descriptors"
            raise errors.for_errno(error, FailedPrecondition)(f"{what_for}: {error.strerror}") from None
        finally:
            opened.close()
            context.close(self._closer if pid else None)
            if pid:
                self._closer.close(opened_here)
            else:  # nothing of a start that failed stays open after it
                for fd in opened_here:
                    os.close(fd)
                await self._logger.finish(process.instance)

    async def _run(self, request: StartRequest, process: Process, choice: Choice) -> int:
        """Run the product that was chosen, or the module itself, interpreted; the pid.

        Raises as ``ForkserverClient.start``.
        """
        product = choice.product
        request.engine = product.engine if product is not None else WASMEDGE
        request.imageable = product.digest.encode() if product is not None and product.imageable else b""
        process.tier = ": ".join(filter(None, (_tier(product), "" if product else choice.why)))
        started = await self._forkserver.start(request)
        if started.imaged:
            process.tier += IMAGED
            self._counters.image_starts += 1
        if self._aot is not None and product is None:
            self._aot.interpreted(choice)
        return started.pid

    async def _run_otherwise(
        self,
        request: StartRequest,
        process: Process,
        context: wasi.WasiContext,
        asked: EngineMode,
        choice: Choice,
        error: ModuleRefused,
    ) -> int:
        """Run a module that was refused: as it came, where its product was refused, or by the other engine; the pid.

        Raises as ``ForkserverClient.start``.
        """
        if self._aot is None:
            raise error
        product = choice.product
        if product is not None and product.engine == WASMTIME:
            return await self._run_beside_wasmtime(request, process, context, asked, choice, product, error)
        product_error = error
        if product is not None:  # the product may be at fault, and so our compiler: the module has the last word
            try:
                pid = await self._run_guest(request, process, context, Choice())
            except ModuleRefused as refused:
                error = refused
            else:
                self._aot.condemn(product, str(product_error))
                return pid
        # What loads and does not link is at fault itself. Who may not read it by its access list may not run it either.
        if error.loaded or wasi.has_access_list(context.module):
            raise error
        try:
            other = await self._aot.instead(context.module, asked, str(error))
        except InvalidArgument as both:
            raise ModuleRefused(str(both)) from None
        if other is None:
            raise error
        try:
            return await self._run_product(request, process, context, other)
        except ModuleRefused as refused:
            raise ModuleRefused(f"WasmEdge: {error}; Wasmtime: {refused}") from None

    async def _run_beside_wasmtime(
        self,
        request: StartRequest,
        process: Process,
        context: wasi.WasiContext,
        asked: EngineMode,
        choice: Choice,
        product: Product,
        error: ModuleRefused,
    ) -> int:
        """Run a module whose product of Wasmtime was refused: compiled again, or by WasmEdge's interpreter; the pid.

        Raises as ``_run``.
        """
        assert self._aot is not None
        if not error.loaded:
            try:
                return await self._run_made_again(request, process, context, product, error)
            except ModuleRefused as refused:
                error = refused
        if not error.unlinked or asked is not EngineMode.AUTO or product.component:  # the module itself is at fault
            raise error
        try:
            interpreted = Choice(None, f"{choice.why}; Wasmtime: refused: {error}", product.digest)
            pid = await self._run_guest(request, process, context, interpreted)
        except ModuleRefused as refused:
            raise ModuleRefused(f"WasmEdge: {refused}; Wasmtime: {error}") from None
        self._aot.unlinked(product, str(error))
        return pid

    async def _run_made_again(
        self,
        request: StartRequest,
        process: Process,
        context: wasi.WasiContext,
        product: Product,
        error: ModuleRefused,
    ) -> int:
        """Run a module whose product of Wasmtime did not load, compiled again; the pid. Raises as ``_run``."""
        assert self._aot is not None
        context.run_guest()
        product = await self._aot.again(context.module, product, str(error))
        try:
            return await self._run_product(request, process, context, product)
        except ModuleRefused as refused:
            if refused.loaded:
                raise
            self._aot.condemn(product, str(refused))
            raise FailedPrecondition(
                f"what Wasmtime compiled it into does not load: {refused}: restart the sandboxer if Wasmtime is another"
            ) from None

    async def _run_product(
        self, request: StartRequest, process: Process, context: wasi.WasiContext, product: Product
    ) -> int:
        context.run_product(product.fd, product.component)
        _hand_over(request, context)
        return await self._run(request, process, Choice(product))

    async def _run_guest(
        self, request: StartRequest, process: Process, context: wasi.WasiContext, choice: Choice
    ) -> int:
        context.run_guest()
        _hand_over(request, context)
        return await self._run(request, process, choice)

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


def _hand_over(request: StartRequest, context: wasi.WasiContext) -> None:
    """Have a request run the file that its context holds by now."""
    request.module_kind = context.kind
    request.max_pages = context.max_pages()
    request.descriptors.put(MODULE, context.module)


def _tier(product: Product | None) -> str:
    if product is None:
        return "interpreted"
    return "wasmtime" if product.engine == WASMTIME else product.level.name
