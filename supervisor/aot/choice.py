"""Choice of a module's engine: WasmEdge, but for what only Wasmtime can run.

The choice is made by what is known of the module's digest: that WasmEdge's compiler refused it or ran out of time or
memory is on record (``cache``), and so it is made once.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_api.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from workers.start_request import WASMEDGE, WASMTIME

from ..host import errors, interpreters
from .cache import remember
from .digests import MAX_MODULE
from .policy import Aot, Product
from .terms import ENGINE_ANNOTATION, EngineLibrary, EngineMode, Level, Verdict

log = logging.getLogger(__name__)

_MAGIC = b"\0asm"
_COMPONENT = b"\0asm\x0d\0\1\0"
_MISSING = "Wasmtime is not here: install it (wasm-sandboxer doctor says how) and restart the sandboxer"
_BROKEN = "Wasmtime does not load, as the log says: see wasm-sandboxer doctor, and restart the sandboxer"
_NEVER = "Wasmtime runs what is compiled alone, and --aot is never"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a start runs."""

    product: Product | None = None
    """The caller's to close; None where WasmEdge's interpreter runs the module."""
    why: str = ""
    """Why there is nothing better, where that is known and will stay so."""
    digest: str = ""
    """The module's, where it is known."""


class EngineChoice:
    """The engines' compiled modules together."""

    def __init__(self, wasmedge: Aot, wasmtime: Aot, mode: EngineMode = EngineMode.AUTO) -> None:
        self._wasmedge = wasmedge
        self._wasmtime = wasmtime
        self._mode = mode
        self._without = _NEVER
        """Why Wasmtime runs nothing, where it is not active."""
        self._made_again: OrderedDict[str, None] = OrderedDict()
        """Digests of modules whose product of Wasmtime did not load."""
        self._told: OrderedDict[str, str] = OrderedDict()
        """Why modules run interpreted, by digest, as it was logged."""

    async def start(self, versions: Mapping[str, str]) -> None:
        """Begin with products for the engines of these versions. Raises ``CacheUnusable``."""
        await self._wasmedge.start(EngineLibrary(WASMEDGE, versions.get(WASMEDGE.decode(), "")))
        found = interpreters.wasmtime()
        if found and versions.get(WASMTIME.decode()) == found[0]:
            await self._wasmtime.start(EngineLibrary(WASMTIME, *found))
        elif self._wasmedge.active:
            self._without = _BROKEN if found else _MISSING
            await self._wasmtime.stop()

    @property
    def pids(self) -> set[int]:
        """Pids of our children that compile."""
        return self._wasmedge.pids | self._wasmtime.pids

    @property
    def active(self) -> bool:
        """Whether it is worth opening a module before its start."""
        return self._wasmedge.active

    def asked(self, annotations: Mapping[str, str]) -> EngineMode:
        """The engine that a container asks for. Raises ``InvalidArgument``."""
        name = annotations.get(ENGINE_ANNOTATION, self._mode.value)
        try:
            return EngineMode(name)
        except ValueError:
            modes = ", ".join(mode.value for mode in EngineMode)
            raise InvalidArgument(f"annotation {ENGINE_ANNOTATION}: there is no engine {name!r} ({modes})") from None

    def seen(self, module: int, asked: EngineMode) -> None:
        """Compile this opened module, if it is one, when there is time. The descriptor stays the caller's."""
        try:
            wasmtime = asked is EngineMode.WASMTIME or (asked is EngineMode.AUTO and is_component(module))
        except OSError:  # Start will say so
            return
        (self._wasmtime if wasmtime else self._wasmedge).seen(module)

    def foreseen(self, asked: EngineMode) -> bool:
        """Whether WasmEdge may run a module: the engine whose loaded modules can have images."""
        return self._wasmedge.active and asked is not EngineMode.WASMTIME

    def known(self, module: int) -> str | None:
        """The digest of an opened module that was read before."""
        return self._wasmedge.known(module)

    async def ready(self, module: int) -> Product | None:
        """WasmEdge's best product there can be of an opened module, if it is there. Raises ``OSError``."""
        return await self._wasmedge.ready(module)

    async def choose(self, module: int, asked: EngineMode) -> Choice:
        """What is the best to run for this opened module, whose digest is looked for once.

        Raises ``OSError``, and a ``SandboxerError`` where the engine that has to run it cannot.
        """
        component = is_component(module)
        if asked is EngineMode.WASMEDGE and component:
            raise InvalidArgument("it is a component, and WasmEdge runs none: use Wasmtime")
        if component or (asked is EngineMode.WASMTIME and _is_binary(module)):
            return Choice(await self._by_wasmtime(module))
        digest = await self._wasmedge.digest(module)
        product = await self._wasmedge.best(module, digest)
        if product is not None or digest is None:
            return Choice(product)
        failure = self._wasmedge.failure(module, digest, Level.O0)
        if failure is None:  # it may still be compiled
            return Choice()
        reason = f"WasmEdge: {failure}"
        if asked is EngineMode.WASMEDGE:
            return Choice(None, reason, digest)
        if not self._wasmtime.active:
            return Choice(None, f"{reason}; {self._without}", digest)
        product = await self._wasmtime.best(module, digest, wait=failure.verdict is Verdict.REFUSED)
        if product is not None:
            return Choice(product, reason, digest)
        second = self._wasmtime.failure(module, digest, Level.O2)
        return Choice(None, f"{reason}; Wasmtime: {second}", digest) if second is not None else Choice()

    def interpreted(self, choice: Choice) -> None:
        """Log once why a module runs interpreted."""
        if choice.why and self._told.get(choice.digest) != choice.why:
            remember(self._told, choice.digest, choice.why)
            log.warning("%.12s runs interpreted, which is slow: %s", choice.digest, choice.why)

    async def instead(self, module: int, asked: EngineMode, error: str) -> Product | None:
        """The product of Wasmtime for a module that WasmEdge has refused; None where there is no second opinion.

        Raises ``InvalidArgument`` with what both say.
        """
        if asked is not EngineMode.AUTO or not self._wasmtime.active or not _is_binary(module):
            return None
        try:
            return await self._by_wasmtime(module)
        except (InvalidArgument, FailedPrecondition) as second:
            raise InvalidArgument(f"WasmEdge: {error}; Wasmtime: {second}") from None

    def unlinked(self, product: Product, why: str) -> None:
        """Leave this module to WasmEdge from now on: Wasmtime lacks what it imports."""
        self._wasmtime.refuse(product, why)

    def condemn(self, product: Product, why: str) -> None:
        """Never use this product again: it does not load, though its module does."""
        if product.engine == WASMTIME:  # the library is at fault, and may be replaced
            self._wasmtime.condemn(product, why, Verdict.UNABLE)
        else:
            self._wasmedge.condemn(product, why)

    async def again(self, module: int, product: Product, why: str) -> Product:
        """Wasmtime's product, made again: this one does not load, being another build's. Raises as ``best``."""
        self._wasmtime.discard(product, why)
        remember(self._made_again, product.digest, None)
        return await self._by_wasmtime(module)

    def made_again(self, product: Product) -> bool:
        """Whether that was done already for this module: no container has it done again and again."""
        return product.digest in self._made_again

    async def close(self) -> None:
        """End what compiles."""
        await self._wasmtime.close()
        await self._wasmedge.close()

    async def _by_wasmtime(self, module: int) -> Product:
        """Wasmtime's product, which is waited for: it has no interpreter."""
        if not self._wasmtime.active:
            raise FailedPrecondition(self._without)
        digest = await self._wasmedge.digest(module, wait=True)
        product, failure = await self._wasmtime.best_or_why(module, digest, wait=True)
        if product is not None:
            return product
        if failure is None and digest is not None:
            failure = self._wasmtime.failure(module, digest, Level.O2)
        if failure is not None and failure.verdict is Verdict.REFUSED:
            raise InvalidArgument(failure.text)
        if failure is not None and failure.lacking:
            lacking = errors.for_errno(OSError(failure.lacking, ""), ResourceExhausted)
            raise lacking(f"it could not be compiled: {failure.text}: try again")
        why = failure or f"it is larger than {MAX_MODULE >> 20} MiB"
        raise FailedPrecondition(f"it could not be compiled: {why}")


def _is_binary(module: int) -> bool:
    return os.pread(module, len(_MAGIC), 0) == _MAGIC


def is_component(module: int) -> bool:
    """Whether this opened file begins as a component does. Raises ``OSError``."""
    return os.pread(module, len(_COMPONENT), 0) == _COMPONENT
