"""The WasmEdge engine behind three verbs: ``prime`` before the fork; ``load`` and ``run``, plans for after it.

Source of the call order and of every fact here: WasmEdge's C API 0.14, as measured (docs/architecture.md).
"""

from __future__ import annotations

from ctypes import c_void_p, string_at

from ...calls.call_list import FALSE, NONZERO, ZERO, At, Mark, address
from ...protocol import NATIVE
from . import altstack, capi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...calls.call_list import Data, Plan, Step
    from ...protocol import StartRequest

VERSION = b"0.14."
TRAPPED = 134  # what WasmEdge's own program exits with after a trap

PARSE, VALIDATE, INSTANTIATE, NO_FUNCTION, PARAMETERS, TRAP = range(101, 107)
"""Labels of the steps that can fail."""

_WHAT = {PARSE: "not a WebAssembly module", VALIDATE: "not a valid module", INSTANTIATE: "cannot be instantiated"}


class EngineMissing(Exception):
    """libwasmedge cannot be used on this machine; the text says why and what to do."""


class Engine:
    """WasmEdge, loaded once in the forkserver; each worker turns its own copy into one instance."""

    def __init__(self) -> None:
        try:
            lib = capi.load()
        except (OSError, AttributeError) as error:
            raise EngineMissing(f"{capi.LIBRARY} does not load ({error}): run packaging/install-wasmedge.sh") from None
        version: bytes = lib.WasmEdge_VersionGet()
        if not version.startswith(VERSION):
            raise EngineMissing(f"{capi.LIBRARY} is {version.decode()}, this needs {VERSION.decode()}x")
        self.version = version.decode()
        self._lib = lib
        self._calls = {name: address(getattr(lib, f"WasmEdge_{name}")) for name in capi.FUNCTIONS}
        self._wasi = 0

    def prime(self) -> None:
        """Do once, in the forkserver, what every instance needs and no guest can influence."""
        lib = self._lib
        lib.WasmEdge_LogOff()  # it would write to stdout, which is the guest's
        self._stack = altstack.FaultStack(lib)
        # Costly (about 0.5 MiB), and the same for all until ModuleInstanceInitWASI.
        self._wasi = lib.WasmEdge_ModuleInstanceCreateWASI(None, 0, None, 0, None, 0)

    def load(self, plan: Plan, path: bytes, request: StartRequest, folders: list[int]) -> Guest:
        """Parse, validate and instantiate the module file at ``path``, with its WASI world.

        ``folders`` are the descriptors of the request's preopens.
        """
        guest = Guest(plan)
        conf, loader, validator, store = (plan.slot() for _ in range(4))
        self._call(plan, "ConfigureCreate", out=conf)
        # A guest's file is only ever interpreted: native code in it would run as it comes.
        self._call(plan, "ConfigureSetForceInterpreter", At(conf), int(request.module_kind != NATIVE))
        if request.max_pages:
            self._call(plan, "ConfigureSetMaxMemoryPage", At(conf), request.max_pages)
        self._init_wasi(plan, request, folders)
        tree, module = At(guest.tree), At(guest.module)
        self._call(plan, "LoaderCreate", At(conf), out=loader)
        self._call(plan, "LoaderParseFromFile", At(loader), guest.tree, path, fails=NONZERO, label=PARSE)
        self._call(plan, "ValidatorCreate", At(conf), out=validator)
        self._call(plan, "ValidatorValidate", At(validator), tree, fails=NONZERO, label=VALIDATE)
        self._call(plan, "ExecutorCreate", At(conf), None, out=guest.executor)
        self._call(plan, "StoreCreate", out=store)
        executor = At(guest.executor)
        self._call(plan, "ExecutorRegisterImport", executor, At(store), self._wasi, fails=NONZERO, label=INSTANTIATE)
        self._call(
            plan, "ExecutorInstantiate", executor, guest.module, At(store), tree, fails=NONZERO, label=INSTANTIATE
        )
        if request.module_kind != NATIVE:  # the instance has copies of the functions: hand the originals back
            self._call(plan, "ASTModuleDelete", tree)
            plan.libc("malloc_trim", 0)
        name = request.function
        string = (len(name), name)  # a WasmEdge_String, passed by value: both ABIs put it into two registers
        signature = plan.slot()
        self._call(
            plan, "ModuleInstanceFindFunction", module, *string, out=guest.function, fails=ZERO, label=NO_FUNCTION
        )
        self._call(plan, "FunctionInstanceGetFunctionType", At(guest.function), out=signature)
        self._call(plan, "FunctionTypeGetParametersLength", At(signature), fails=NONZERO, label=PARAMETERS)
        return guest

    def run(self, plan: Plan, guest: Guest, command: bool) -> None:
        """Run the chosen function and end the process with its exit status.

        A module that is no ``command`` (a function of it was asked for by name) is initialised first
        where it exports ``_initialize``, as WASI's application ABI wants.
        """
        result, status = plan.slot(), plan.slot()
        if not command:
            uninitialised = Mark()
            initialize, name = plan.slot(), b"_initialize"
            module = At(guest.module)
            self._call(
                plan,
                "ModuleInstanceFindFunction",
                module,
                len(name),
                name,
                out=initialize,
                fails=ZERO,
                orelse=uninitialised,
            )
            self._invoke(plan, guest, initialize, result)
            plan.place(uninitialised)
        self._invoke(plan, guest, guest.function, result)
        self._call(plan, "ModuleInstanceWASIGetExitCode", self._wasi, out=status)
        plan.libc("_exit", At(status))  # of which the lowest 8 bits count

    def _invoke(self, plan: Plan, guest: Guest, function: Data, result: Data) -> None:
        self._call(plan, "ExecutorInvoke", At(guest.executor), At(function), None, 0, None, 0, out=result)
        self._call(plan, "ResultOK", At(result), fails=FALSE, label=TRAP)

    def explain(self, step: Step, result: int) -> str:
        """Why a step of these failed, or what trapped."""
        if step.label == NO_FUNCTION:
            return f"the module exports no function {_name(step)!r}"
        if step.label == PARAMETERS:
            return "the function takes parameters, and there are none to give"
        code = step.arguments[0] if step.label == TRAP else result
        message: str = self._lib.WasmEdge_ResultGetMessage(capi.Result(code & 0xFFFFFFFF)).decode(errors="replace")
        if step.label == TRAP:
            return message
        wanted = self._foreign_imports(step.arguments[3]) if message == "unknown import" else ""
        return f"{_WHAT[step.label]}: {message}{wanted}"

    def _init_wasi(self, plan: Plan, request: StartRequest, folders: list[int]) -> None:
        # Without "/." WasmEdge does not get in: it opens with O_NOFOLLOW, and /proc/self/fd/N is a link.
        preopens = [
            b"%s:/proc/self/fd/%d/.%s" % (preopen.path, fd, b":readonly" if preopen.readonly else b"")
            for preopen, fd in zip(request.preopens, folders, strict=True)
        ]
        lists = [(plan.table(texts), len(texts)) for texts in (request.args, request.env, preopens)]
        self._call(plan, "ModuleInstanceInitWASI", self._wasi, *(each for pair in lists for each in pair))

    def _call(self, plan: Plan, name: str, *arguments: int | bytes | At | Data | None, **more: Any) -> None:
        plan.call(self._calls[name], *arguments, **more)

    def _foreign_imports(self, tree: int) -> str:
        lib = self._lib
        count = min(lib.WasmEdge_ASTModuleListImportsLength(tree), 1024)
        imports = (c_void_p * count)()
        lib.WasmEdge_ASTModuleListImports(tree, imports, count)
        names = []
        for each in imports:
            module = capi.text(lib.WasmEdge_ImportTypeGetModuleName(each))
            name = capi.text(lib.WasmEdge_ImportTypeGetExternalName(each))
            if module != "wasi_snapshot_preview1":
                names.append(f"{module}.{name}")
        return f" (it wants {', '.join(names[:5])})" if names else ""


class Guest:
    """Where a worker will keep its guest's objects."""

    __slots__ = ("executor", "function", "module", "tree")

    def __init__(self, plan: Plan) -> None:
        self.tree = plan.slot()
        self.executor = plan.slot()
        self.module = plan.slot()
        self.function = plan.slot()


def _name(step: Step) -> str:
    return string_at(step.arguments[2], step.arguments[1]).decode(errors="replace")
