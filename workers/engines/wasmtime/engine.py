"""The Wasmtime engine: core modules and components, as its compiler made them.

It runs what ``wasmtime_module_serialize`` wrote, never a guest's own file. Source of the call order: Wasmtime's
headers, and what its C API was seen to do (docs/architecture.md).
"""

from __future__ import annotations

import ctypes
import posix
from ctypes import byref, c_int, c_void_p

from ...calls import machine
from ...calls.call_list import ANY, FALSE, NEVER, NONZERO, ZERO, At, Label, address
from ...protocol import UNLINKED
from ...start_request import COMPONENT, WASMTIME
from ..engine import EXITED, REFUSED, TRAPPED, End, Engine, EngineMissing, Module
from . import capi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...calls.call_list import CallList, Data, Late, Step
    from ...start_request import StartRequest

VARIABLE = b"WASM_SANDBOXER_LIBWASMTIME"
"""Names the library, as VERSION:PATH: its C API does not tell the version."""
PAGE_BYTES = 64 << 10
RUN_INTERFACE = b"wasi:cli/run@0.2.0"
"""The export of a command component. The library takes any 0.2 for it (semantic versions)."""
_MUTE = "50."
"""Versions whose C API allows a guest addresses and names, and no sockets."""
_ONE_THREAD = b"TOKIO_WORKER_THREADS=1"
"""The worker's own environment: else the library's scheduler makes a thread for each of the machine's processors."""
_I32 = 0  # wasm_valkind_t
_RESULTS = 16  # results for which a function called by name has room

LOAD, WASI, INSTANTIATE, START_TRAP, NO_FUNCTION, PARAMETERS, TRAP = range(201, 208)
"""Labels of the steps that can fail."""

_IMPORT_MISSING = ("unknown import", "incompatible import type")
_WHAT = {LOAD: "cannot be loaded", WASI: "cannot be given its WASI context", INSTANTIATE: "cannot be instantiated"}


class Wasmtime(Engine):
    """Wasmtime, loaded once in its root zygote; each worker turns its own copy into one instance."""

    name = WASMTIME
    stages = range(LOAD, TRAP + 1)
    running = TRAP
    threads = True
    apart = True

    @classmethod
    def installed(cls) -> list[Engine]:
        """This engine, where our environment names its library."""
        named = posix.environ.get(VARIABLE, b"").decode()
        return [cls(*named.split(":", 1))] if ":" in named else []

    def __init__(self, version: str, path: str) -> None:
        self.version = version
        self._path = path
        self._lib: ctypes.PyDLL | None = None
        self._state: dict[str, int] = {}

    @property
    def ready(self) -> bool:
        """Whether a root zygote has it loaded."""
        return bool(self._state)

    def prime(self) -> None:
        """Make an engine and linkers with WASI in them. Raises ``EngineMissing``."""
        try:
            lib = self._lib = capi.load(self._path)
        except (OSError, AttributeError) as error:
            raise EngineMissing(f"{self._path} does not load ({error}): install wasm-sandboxer[wasmtime]") from None
        config = lib.wasm_config_new()
        configure(lib, config)
        engine = lib.wasm_engine_new_with_config(config)
        linker = lib.wasmtime_linker_new(engine)
        components = lib.wasmtime_component_linker_new(engine)
        for refusal in (
            lib.wasmtime_linker_define_wasi(linker),
            lib.wasmtime_component_linker_add_wasip2(components),
            lib.wasmtime_component_linker_add_wasi_http(components),
        ):
            if refusal:
                raise EngineMissing(f"{self._path} gives no WASI: {self._message(refusal)}")
        self._define_exit(lib, linker)
        self._state = {name: address(getattr(lib, name)) for name in capi.FUNCTIONS}
        self._state.update(engine=engine, linker=linker, components=components)
        self._state["switches"] = self.version.startswith(_MUTE) and has_switches(lib)

    def _define_exit(self, lib: ctypes.PyDLL, linker: int) -> None:
        """Have proc_exit end the process with any status: Wasmtime's own takes those below 126 and traps at others."""
        code = machine.exit_code(address(ctypes.PyDLL(None)._exit))
        if not code:
            return
        status = (c_void_p * 1)(lib.wasm_valtype_new(_I32))
        parameters, results = capi.Vector(), capi.Vector()
        lib.wasm_valtype_vec_new(byref(parameters), 1, status)
        lib.wasm_valtype_vec_new(byref(results), 0, None)
        type_ = lib.wasm_functype_new(byref(parameters), byref(results))
        lib.wasmtime_linker_allow_shadowing(linker, True)
        name = b"wasi_snapshot_preview1", b"proc_exit"
        lib.wasmtime_linker_define_func_unchecked(
            linker, name[0], len(name[0]), name[1], len(name[1]), type_, machine.load(code), None, None
        )
        lib.wasmtime_linker_allow_shadowing(linker, False)

    def state(self) -> dict[str, int]:
        """The addresses of its functions and objects."""
        return self._state

    def adopt(self, state: dict[str, int]) -> None:
        """Take those of a root zygote."""
        self._state = state

    def load(self, calls: CallList, module: Module, request: StartRequest, folders: list[int] | None) -> Guest:
        """Map the product, and set up a store with its WASI context."""
        guest = Guest(calls, request.module_kind == COMPONENT)
        name = f"wasmtime_{guest.kind}_deserialize_file"
        self._call(calls, name, self._state["engine"], module.product, guest.module, fails=ANY, stage=LOAD)
        self._call(calls, "wasmtime_store_new", self._state["engine"], None, None, out=guest.store)
        self._call(calls, "wasmtime_store_context", At(guest.store), out=guest.context)
        if request.max_pages:
            most = request.max_pages * PAGE_BYTES
            self._call(calls, "wasmtime_store_limiter", At(guest.store), most, -1, -1, -1, -1)
        self._init_wasi(calls, guest, request, folders or [])
        return guest

    def instantiate(self, calls: CallList, guest: Guest, request: StartRequest) -> None:
        """Instantiate the module, which runs its start section, and find the function."""
        if guest.component:
            self._instantiate_component(calls, guest)
        else:
            self._instantiate_module(calls, guest, request.function)

    def run(self, calls: CallList, guest: Guest, command: bool) -> None:
        """Run the function and end the process."""
        failed, unhappy = Label(), Label()
        if guest.component:
            result = calls.data(bytes(capi.VALUE_BYTES))
            self._call(
                calls, "wasmtime_component_func_call", guest.function, At(guest.context), None, 0, result, 1,
                out=guest.error, fails=ANY, orelse=failed,
            )  # fmt: skip
            calls.libc("memcmp", result + capi.UNION_OFFSET, b"\1", 1, fails=NONZERO, orelse=unhappy)
            calls.libc("_exit", 0)
            calls.bind(unhappy)
            calls.libc("_exit", 1)
        else:
            if not command:
                self._initialize(calls, guest, failed)
            self._invoke(calls, guest, guest.function, failed)
            calls.libc("_exit", 0)
        calls.bind(failed)
        status = calls.slot()
        self._call(calls, "wasmtime_error_exit_status", At(guest.error), status, fails=FALSE, stage=TRAP)
        calls.libc("_exit", At(status))  # of which the lowest 8 bits count

    def explain(self, step: Step, result: int) -> End:
        """Say how one of its steps ended the list."""
        if step.stage == NO_FUNCTION:
            return End(REFUSED, "the module exports no such function")
        if step.stage == PARAMETERS:
            return End(REFUSED, "the function takes parameters, and there are none to give")
        if step.stage in (TRAP, START_TRAP):
            error = step.stage == TRAP and len(step.arguments) == 2  # then its exit status was asked for
            message = self._message(step.arguments[0]) if error else self._trap_message(step.arguments[0])
            return End(TRAPPED, cause_first(message))
        if step.stage == WASI:
            return End(REFUSED, _WHAT[WASI])
        if step.stage == INSTANTIATE and (status := self._exit_status(result)) is not None:  # in the start section
            return End(EXITED, status=status & 0xFF)
        message = self._message(result)
        if step.stage == INSTANTIATE and "wasm backtrace" in message:
            return End(TRAPPED, cause_first(message))
        cause = cause_first(message)
        unlinked = step.stage == INSTANTIATE and cause.startswith(_IMPORT_MISSING)
        return End(REFUSED, f"{UNLINKED if unlinked else _WHAT[step.stage]}: {cause}")

    def _instantiate_module(self, calls: CallList, guest: Guest, function: bytes) -> None:
        context, found = At(guest.context), calls.data(bytes(capi.EXTERN_BYTES))
        guest.function = found + capi.UNION_OFFSET
        self._call(
            calls, "wasmtime_linker_instantiate", self._state["linker"], context, At(guest.module), guest.instance,
            guest.trap, fails=ANY, stage=INSTANTIATE,
        )  # fmt: skip
        calls.libc("memcmp", guest.trap, bytes(8), 8, fails=NONZERO, stage=START_TRAP)
        self._call(
            calls, "wasmtime_instance_export_get", context, guest.instance, function, len(function), found,
            fails=FALSE, stage=NO_FUNCTION,
        )  # fmt: skip
        calls.libc("memcmp", found, bytes([capi.FUNCTION]), 1, fails=NONZERO, stage=NO_FUNCTION)
        type_, parameters = calls.slot(), calls.slot()
        self._call(calls, "wasmtime_func_type", context, guest.function, out=type_)
        self._call(calls, "wasm_functype_params", At(type_), out=parameters)
        calls.libc("memcmp", At(parameters), bytes(8), 8, fails=NONZERO, stage=PARAMETERS)

    def _instantiate_component(self, calls: CallList, guest: Guest) -> None:
        component, run = At(guest.module), calls.slot()
        self._call(
            calls, "wasmtime_component_linker_instantiate", self._state["components"], At(guest.context), component,
            guest.instance, fails=ANY, stage=INSTANTIATE,
        )  # fmt: skip
        for parent, name in ((None, RUN_INTERFACE), (At(run), b"run")):
            self._call(
                calls, "wasmtime_component_get_export_index", component, parent, name, len(name), out=run,
                fails=ZERO, stage=NO_FUNCTION,
            )  # fmt: skip
        self._call(
            calls, "wasmtime_component_instance_get_func", guest.instance, At(guest.context), At(run), guest.function,
            fails=FALSE, stage=NO_FUNCTION,
        )  # fmt: skip

    def _init_wasi(self, calls: CallList, guest: Guest, request: StartRequest, folders: list[int]) -> None:
        config = calls.slot()
        self._call(calls, "wasi_config_new", out=config)
        at = At(config)
        args, count = calls.args
        self._wasi(calls, "set_argv", at, count, args)
        environment, _ = calls.env
        calls.libc("memmove", environment, environment, 0, out=_environ())  # which is for the guest alone
        self._wasi(calls, "inherit_env", at, fails=NEVER)
        ours = calls.table([_ONE_THREAD, 0])
        calls.libc("memmove", ours, ours, 0, out=_environ())
        for stream in ("stdin", "stdout", "stderr"):
            self._wasi(calls, f"inherit_{stream}", at, fails=NEVER)
        if request.network:
            self._wasi(calls, "inherit_network", at, fails=NEVER)
            self._wasi(calls, "allow_ip_name_lookup", at, 1, fails=NEVER)
            self._allow_sockets(calls, at)
        for preopen, fd in zip(request.preopens, folders, strict=True):
            host = b"self/fd/%d/." % fd  # proc is the current directory
            self._wasi(calls, "preopen_dir", at, host, preopen.path, int(not preopen.readonly))
        self._call(calls, "wasmtime_context_set_wasi", At(guest.context), at, fails=ANY, stage=INSTANTIATE)
        if guest.component:  # without a network, too: its requests fail there, where the library would panic
            self._call(calls, "wasmtime_context_set_wasi_http", At(guest.context))

    def _allow_sockets(self, calls: CallList, config: At) -> None:
        """Allow UDP and TCP, which the C API of ``_MUTE`` forgets: no function of it does (wasmtime's PR 13936).

        Their switches are the bytes behind that of name lookup, which a function sets where it is told the address.
        They are no walls: without a network no guest can make a socket.
        """
        if not self._state["switches"]:
            return
        for distance in (1, 2):  # AllowedNetworkUses: ip_name_lookup, udp, tcp
            beside = calls.slot()
            calls.libc("mempcpy", config, config, distance, out=beside)  # which is the address so many bytes on
            self._wasi(calls, "allow_ip_name_lookup", At(beside), 1, fails=NEVER)

    def _wasi(
        self, calls: CallList, name: str, *arguments: int | bytes | At | Data | Late | None, fails: int = FALSE
    ) -> None:
        self._call(calls, f"wasi_config_{name}", *arguments, fails=fails, stage=WASI if fails else 0)

    def _initialize(self, calls: CallList, guest: Guest, failed: Label) -> None:
        absent, found, name = Label(), calls.data(bytes(capi.EXTERN_BYTES)), b"_initialize"
        self._call(
            calls, "wasmtime_instance_export_get", At(guest.context), guest.instance, name, len(name), found,
            fails=FALSE, orelse=absent,
        )  # fmt: skip
        self._invoke(calls, guest, found + capi.UNION_OFFSET, failed)
        calls.bind(absent)

    def _invoke(self, calls: CallList, guest: Guest, function: Data, failed: Label) -> None:
        self._call(
            calls, "wasmtime_func_call_unchecked", At(guest.context), function, guest.results, _RESULTS, guest.trap,
            out=guest.error, fails=ANY, orelse=failed,
        )  # fmt: skip
        calls.libc("memcmp", guest.trap, bytes(8), 8, fails=NONZERO, stage=TRAP)

    def _call(self, calls: CallList, name: str, *arguments: int | bytes | At | Data | Late | None, **more: Any) -> None:
        calls.call(self._state[name], *arguments, **more)

    # In a fork of the root zygote, where the library is loaded

    def _message(self, error: int) -> str:
        assert self._lib is not None
        vector = capi.Vector()
        self._lib.wasmtime_error_message(error, byref(vector))
        return capi.text(vector)

    def _exit_status(self, error: int) -> int | None:
        assert self._lib is not None
        status = c_int()
        return status.value if self._lib.wasmtime_error_exit_status(error, byref(status)) else None

    def _trap_message(self, slot: int) -> str:
        assert self._lib is not None
        vector = capi.Vector()
        self._lib.wasm_trap_message(c_void_p.from_address(slot).value, byref(vector))
        return capi.text(vector)


class Guest:
    """The places where a worker keeps its guest's objects."""

    __slots__ = ("component", "context", "error", "function", "instance", "module", "results", "store", "trap")

    def __init__(self, calls: CallList, component: bool) -> None:
        self.component = component
        self.module = calls.slot()
        self.store = calls.slot()
        self.context = calls.slot()
        self.trap = calls.slot()
        self.error = calls.slot()
        self.instance = calls.data(bytes(capi.INSTANCE_BYTES))
        self.function = calls.data(bytes(capi.INSTANCE_BYTES))
        self.results = calls.data(bytes(_RESULTS * 16))

    @property
    def kind(self) -> str:
        """As functions' names have it."""
        return "component" if self.component else "module"


def _environ() -> int:
    """Where the C library keeps its pointer to the environment."""
    return ctypes.addressof(c_void_p.in_dll(ctypes.PyDLL(None), "environ"))


def has_switches(library: ctypes.PyDLL) -> bool:
    """Whether behind the switch of name lookup lie two more that are off, in the same block of the heap."""
    usable = ctypes.PyDLL(None).malloc_usable_size
    usable.argtypes, usable.restype = (c_void_p,), ctypes.c_size_t
    config = library.wasi_config_new()
    size = usable(config)
    before = ctypes.string_at(config, size)
    library.wasi_config_allow_ip_name_lookup(config, True)
    after = ctypes.string_at(config, size)
    library.wasi_config_delete(config)
    changed = [at for at in range(size) if before[at] != after[at]]
    return [(before[at : at + 3], after[at : at + 3]) for at in changed] == [(bytes(3), b"\1\0\0")]


def configure(library: ctypes.PyDLL, config: int) -> None:
    """Set what compiler and worker have to agree on: a product of other settings does not load."""
    library.wasmtime_config_parallel_compilation_set(config, False)


def cause_first(message: str) -> str:
    """Wasmtime's text with its cause in front: it begins with the backtrace and ends with why. An error is one line."""
    context, found, cause = message.partition("\n\nCaused by:\n")
    if not found:
        return message.strip()
    if "backtrace" in context:
        return f"{cause.strip().removeprefix('wasm trap: ')}\n{context.strip()}"
    causes = (line.strip() for line in cause.strip().splitlines())  # where there are several, each has its number
    numbered = (line.partition(": ") for line in causes)
    return ": ".join(
        [context.strip(), *(rest if head.isdigit() else head + colon + rest for head, colon, rest in numbered)]
    )
