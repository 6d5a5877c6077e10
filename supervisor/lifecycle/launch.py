"""The attempts of one start: the product that was chosen, and what may run in its place where that is refused."""

from __future__ import annotations

import logging

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from workers.start_request import MODULE, WASMEDGE, WASMTIME, StartRequest

from ..aot.choice import Choice, EngineChoice
from ..aot.policy import Product
from ..aot.terms import INITIALIZE_ANNOTATION, EngineMode
from ..host.counters import Counters
from ..ipc.forkserver import ForkserverClient
from ..ipc.reports import ModuleRefused
from ..model.process import Process
from ..oci import wasi

log = logging.getLogger(__name__)

_OWN = "under its own seccomp profile or resource limits"

IMAGED = "+image"
"""Behind the tier of a process whose module was mapped from an image of it loaded."""


class Launch:
    """One process's start, when all that its worker gets is open."""

    def __init__(
        self,
        forkserver: ForkserverClient,
        aot: EngineChoice | None,
        counters: Counters,
        process: Process,
        request: StartRequest,
        context: wasi.WasiContext,
        asked: EngineMode,
        restricted: bool = False,
    ) -> None:
        """Prepare to send this request, whose module and folders ``context`` owns, to the engine ``asked`` for.

        ``restricted``: the container has a seccomp profile or resource limits of its own, by which any product may fail
        to load. Nothing is then concluded about the product, which all containers of that module share.
        """
        self._forkserver = forkserver
        self._aot = aot
        self._counters = counters
        self._process = process
        self._request = request
        self._context = context
        self._asked = asked
        self._restricted = restricted

    async def run(self, choice: Choice) -> int:
        """Run what was chosen, or what may run in its place; the pid. Raises as ``ForkserverClient.start``."""
        try:
            return await self._run(choice)
        except ModuleRefused as error:
            return await self._run_otherwise(choice, error)

    async def _run(self, choice: Choice) -> int:
        """Run this product, or the module itself, interpreted; the pid."""
        product = choice.product
        self._request.engine = product.engine if product is not None else WASMEDGE
        if self._request.initialize and self._request.engine == WASMTIME:
            raise InvalidArgument(
                f"annotation {INITIALIZE_ANNOTATION}: Wasmtime runs it, and only WasmEdge calls an export"
            )
        self._request.imageable = product.digest.encode() if product is not None and product.imageable else b""
        self._process.tier = ": ".join(filter(None, (_tier(product), "" if product else choice.why)))
        started = await self._forkserver.start(self._request)
        if started.imaged:
            self._process.tier += IMAGED
            self._counters.image_starts += 1
        if self._aot is not None and product is None:
            self._aot.interpreted(choice)
        return started.pid

    async def _run_otherwise(self, choice: Choice, error: ModuleRefused) -> int:
        """Run a module that was refused: as it came, where its product was refused, or by the other engine; the pid."""
        if self._aot is None:
            raise error
        product = choice.product
        if product is not None and product.engine == WASMTIME:
            return await self._run_beside_wasmtime(choice, product, error)
        product_error = error
        if product is not None:  # the product may be at fault, and so our compiler: the module has the last word
            try:
                pid = await self._run_guest(Choice())
            except ModuleRefused as refused:
                error = refused
            else:
                if self._restricted:
                    name = self._process.name
                    log.warning("%s: interpreted: its product does not load %s: %s", name, _OWN, product_error)
                else:
                    self._aot.condemn(product, str(product_error))
                return pid
        # What loads and does not link is at fault itself. Who may not read it by its access list may not run it either.
        if error.loaded or wasi.has_access_list(self._context.module):
            raise error
        try:
            other = await self._aot.instead(self._context.module, self._asked, str(error))
        except InvalidArgument as both:
            raise ModuleRefused(str(both)) from None
        if other is None:
            raise error
        try:
            return await self._run_product(other)
        except ModuleRefused as refused:
            raise ModuleRefused(f"WasmEdge: {error}; Wasmtime: {refused}") from None

    async def _run_beside_wasmtime(self, choice: Choice, product: Product, error: ModuleRefused) -> int:
        """Run a module whose product of Wasmtime was refused: compiled again, or by WasmEdge's interpreter; the pid."""
        assert self._aot is not None
        if not error.loaded:
            try:
                return await self._run_made_again(product, error)
            except ModuleRefused as refused:
                error = refused
        if not error.unlinked or self._asked is not EngineMode.AUTO or product.component:
            raise error  # the module itself is at fault
        try:
            interpreted = Choice(None, f"{choice.why}; Wasmtime: refused: {error}", product.digest)
            pid = await self._run_guest(interpreted)
        except ModuleRefused as refused:
            raise ModuleRefused(f"WasmEdge: {refused}; Wasmtime: {error}") from None
        self._aot.unlinked(product, str(error))
        return pid

    async def _run_made_again(self, product: Product, error: ModuleRefused) -> int:
        """Run a module whose product of Wasmtime did not load, compiled again; the pid."""
        assert self._aot is not None
        if self._restricted and self._aot.made_again(product):
            raise FailedPrecondition(f"what Wasmtime compiled it into does not load {_OWN}: {error}")
        self._context.run_guest()
        product = await self._aot.again(self._context.module, product, str(error))
        try:
            return await self._run_product(product)
        except ModuleRefused as refused:
            if refused.loaded:
                raise
            if self._restricted:
                raise FailedPrecondition(f"what Wasmtime compiled it into does not load {_OWN}: {refused}") from None
            self._aot.condemn(product, str(refused))
            raise FailedPrecondition(
                f"what Wasmtime compiled it into does not load: {refused}: restart the sandboxer if Wasmtime is another"
            ) from None

    async def _run_product(self, product: Product) -> int:
        self._context.run_product(product.fd, product.component)
        self._hand_over()
        return await self._run(Choice(product))

    async def _run_guest(self, choice: Choice) -> int:
        self._context.run_guest()
        self._hand_over()
        return await self._run(choice)

    def _hand_over(self) -> None:
        """Have the request run the file that its context holds by now."""
        self._request.module_kind = self._context.kind
        self._request.max_pages = self._context.max_pages()
        self._request.descriptors.put(MODULE, self._context.module)


def _tier(product: Product | None) -> str:
    if product is None:
        return "interpreted"
    return "wasmtime" if product.engine == WASMTIME else product.level.name
