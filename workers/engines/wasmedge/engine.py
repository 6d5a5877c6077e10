"""The WasmEdge engine behind three verbs: ``prime`` before the fork; ``load`` and ``run``, plans for after it.

Source of the call order and of every fact here: WasmEdge's C API 0.14, as measured (docs/architecture.md).
"""

from __future__ import annotations

from ctypes import c_void_p, string_at

from ...calls.call_list import FALSE, NONZERO, ZERO, At, Label, address
from ...start_request import NATIVE
from . import altstack, capi, imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...calls.call_list import CallList, Data, Step
    from ...start_request import StartRequest

VERSION = b"0.14."
TRAPPED = 134  # what WasmEdge's own program exits with after a trap

PARSE, VALIDATE, INSTANTIATE, NO_FUNCTION, PARAMETERS, TRAP = range(101, 107)
"""Labels of the steps that can fail."""

_ABSOLUTE = b"_ZNSt10filesystem8absoluteERKNS_7__cxx114pathE"
_LEXICALLY_NORMAL = b"_ZNKSt10filesystem7__cxx114path16lexically_normalEv"

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
        self.proc = b"/proc/"
        """What it needs before a path in proc; empty where a path relative to proc will do."""

    def prime(self) -> None:
        """Do once, in the forkserver, what every instance needs and no guest can influence."""
        lib = self._lib
        lib.WasmEdge_LogOff()  # it would write to stdout, which is the guest's
        self._stack = altstack.FaultStack(lib)
        # WasmEdge makes a module's path absolute, from a directory that has no path. Made normal it stays relative;
        # both take a std::filesystem::path and return one.
        normal = imports.imported(lib, _LEXICALLY_NORMAL)
        self.proc = b"" if normal and imports.redirect(lib, _ABSOLUTE, normal) else b"/proc/"
        # Costly (about 0.5 MiB), and the same for all until ModuleInstanceInitWASI.
        self._wasi = lib.WasmEdge_ModuleInstanceCreateWASI(None, 0, None, 0, None, 0)

    def load(self, calls: CallList, path: bytes, request: StartRequest, folders: list[int]) -> Guest:
        """Parse, validate and instantiate the module file at ``path``, with its WASI world.

        ``folders`` are the descriptors of the request's preopens.
        """
        guest = Guest(calls)
        conf, loader, validator, store = (calls.slot() for _ in range(4))
        self._call(calls, "ConfigureCreate", out=conf)
        # A guest's file is only ever interpreted: native code in it would run as it comes.
        self._call(calls, "ConfigureSetForceInterpreter", At(conf), int(request.module_kind != NATIVE))
        if request.max_pages:
            self._call(calls, "ConfigureSetMaxMemoryPage", At(conf), request.max_pages)
        self._init_wasi(calls, request, folders)
        tree, module = At(guest.tree), At(guest.module)
        self._call(calls, "LoaderCreate", At(conf), out=loader)
        self._call(calls, "LoaderParseFromFile", At(loader), guest.tree, path, fails=NONZERO, stage=PARSE)
        self._call(calls, "ValidatorCreate", At(conf), out=validator)
        self._call(calls, "ValidatorValidate", At(validator), tree, fails=NONZERO, stage=VALIDATE)
        self._call(calls, "ExecutorCreate", At(conf), None, out=guest.executor)
        self._call(calls, "StoreCreate", out=store)
        executor = At(guest.executor)
        self._call(calls, "ExecutorRegisterImport", executor, At(store), self._wasi, fails=NONZERO, stage=INSTANTIATE)
        self._call(
            calls, "ExecutorInstantiate", executor, guest.module, At(store), tree, fails=NONZERO, stage=INSTANTIATE
        )
        if request.module_kind != NATIVE:  # the instance has copies of the functions: hand the originals back
            self._call(calls, "ASTModuleDelete", tree)
            calls.libc("malloc_trim", 0)
        name = request.function
        string = (len(name), name)  # a WasmEdge_String, passed by value: both ABIs put it into two registers
        signature = calls.slot()
        self._call(
            calls, "ModuleInstanceFindFunction", module, *string, out=guest.function, fails=ZERO, stage=NO_FUNCTION
        )
        self._call(calls, "FunctionInstanceGetFunctionType", At(guest.function), out=signature)
        self._call(calls, "FunctionTypeGetParametersLength", At(signature), fails=NONZERO, stage=PARAMETERS)
        return guest

    def run(self, calls: CallList, guest: Guest, command: bool) -> None:
        """Run the chosen function and end the process with its exit status.

        A module that is no ``command`` (a function of it was asked for by name) is initialised first
        where it exports ``_initialize``, as WASI's application ABI wants.
        """
        result, status = calls.slot(), calls.slot()
        if not command:
            uninitialised = Label()
            initialize, name = calls.slot(), b"_initialize"
            module = At(guest.module)
            self._call(
                calls,
                "ModuleInstanceFindFunction",
                module,
                len(name),
                name,
                out=initialize,
                fails=ZERO,
                orelse=uninitialised,
            )
            self._invoke(calls, guest, initialize, result)
            calls.bind(uninitialised)
        self._invoke(calls, guest, guest.function, result)
        self._call(calls, "ModuleInstanceWASIGetExitCode", self._wasi, out=status)
        calls.libc("_exit", At(status))  # of which the lowest 8 bits count

    def _invoke(self, calls: CallList, guest: Guest, function: Data, result: Data) -> None:
        self._call(calls, "ExecutorInvoke", At(guest.executor), At(function), None, 0, None, 0, out=result)
        self._call(calls, "ResultOK", At(result), fails=FALSE, stage=TRAP)

    def explain(self, step: Step, result: int) -> str:
        """Why a step of these failed, or what trapped."""
        if step.stage == NO_FUNCTION:
            return f"the module exports no function {_name(step)!r}"
        if step.stage == PARAMETERS:
            return "the function takes parameters, and there are none to give"
        code = step.arguments[0] if step.stage == TRAP else result
        message: str = self._lib.WasmEdge_ResultGetMessage(capi.Result(code & 0xFFFFFFFF)).decode(errors="replace")
        if step.stage == TRAP:
            return message
        wanted = self._foreign_imports(step.arguments[3]) if message == "unknown import" else ""
        return f"{_WHAT[step.stage]}: {message}{wanted}"

    def _init_wasi(self, calls: CallList, request: StartRequest, folders: list[int]) -> None:
        # Without "/." WasmEdge does not get in: it opens with O_NOFOLLOW, and self/fd/N is a link.
        preopens = [
            b"%s:%sself/fd/%d/.%s" % (preopen.path, self.proc, fd, b":readonly" if preopen.readonly else b"")
            for preopen, fd in zip(request.preopens, folders, strict=True)
        ]
        lists = [(calls.table(texts), len(texts)) for texts in (request.args, request.env, preopens)]
        self._call(calls, "ModuleInstanceInitWASI", self._wasi, *(each for pair in lists for each in pair))

    def _call(self, calls: CallList, name: str, *arguments: int | bytes | At | Data | None, **more: Any) -> None:
        calls.call(self._calls[name], *arguments, **more)

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

    def __init__(self, calls: CallList) -> None:
        self.tree = calls.slot()
        self.executor = calls.slot()
        self.module = calls.slot()
        self.function = calls.slot()


def _name(step: Step) -> str:
    return string_at(step.arguments[2], step.arguments[1]).decode(errors="replace")
